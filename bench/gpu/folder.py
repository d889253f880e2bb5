"""Make the folder that a GPU machine without Ray and network needs: code, text and images.

    python -m bench.gpu.folder --fashion FOLDER --sword FOLDER --out build/gpu

``make gpu-folder`` gets both from Debian and calls it. The first FOLDER has Fashion-MNIST's four
idx files, the other the .bzs and .bzz files of a SWORD text module. The result is at most 40 MB.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

MOST_BYTES = 40_000_000
ROOT = Path(__file__).parents[2]
CODE = ("ray_autolrs", "bench")
PACKAGES = ("schedulefree", "tqdm")
"""Of Python alone; a machine with torch may lack them."""

BLOCK = struct.Struct("<III")
"""Of a block of a SWORD module: where it begins in the file, its bytes there, and unpacked."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--sword", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    make(arguments.fashion, arguments.sword, arguments.out)


def make(fashion: Path, sword: Path, out: Path) -> int:
    """Make the folder anew, and return its bytes.

    Raises:
        ValueError: it would be larger than 40 MB, or a source lacks its files.
    """
    images, text = sorted(fashion.glob("*-ubyte.gz")), sword_text(sword)
    if len(images) != 4:
        raise ValueError(f"{fashion} has {len(images)} files *-ubyte.gz; Fashion-MNIST has 4")
    shutil.rmtree(out, ignore_errors=True)
    for name in CODE:
        skipped = shutil.ignore_patterns("__pycache__", "results", "*.md")
        shutil.copytree(ROOT / name, out / name, ignore=skipped)
    for name in PACKAGES:
        source = importlib.import_module(name).__file__
        assert source is not None
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(source).parent, out / "site" / name, ignore=skipped)
    data = out / "data"
    data.mkdir()
    for path in images:
        shutil.copy(path, data / path.name)
    (data / "text.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (out / "COMMIT").write_text(_commit() + "\n")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"{out} has {size:,} bytes; it may have {MOST_BYTES:,}")
    return size


def sword_text(folder: Path) -> str:
    """Return the text of a SWORD module, without its markup.

    Raises:
        ValueError: the folder has no such module.
    """
    parts: list[str] = []
    for index in sorted(folder.rglob("*.bzs")):
        packed = index.with_suffix(".bzz").read_bytes()
        for start, size, _ in BLOCK.iter_unpack(index.read_bytes()):
            if size:
                parts.append(
                    zlib.decompress(packed[start : start + size]).decode("utf-8", "replace")
                )
    if not parts:
        raise ValueError(f"{folder} has no .bzs file of a SWORD module")
    text = re.sub(r"<note.*?</note>|<[^>]*>", " ", " ".join(parts), flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


def _commit() -> str:
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
