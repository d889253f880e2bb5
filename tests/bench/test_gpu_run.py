"""The run for a GPU, made into its folder and run on the CPU at a tiny size, without Ray."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import folder

VERSES = (
    "<verse>In the <b>beginning</b> was the word<note>a note</note> and the word was long. </verse>"
)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Fashion-MNIST and a SWORD module as Debian has them, but small."""
    fashion, sword = tmp_path / "fashion", tmp_path / "sword"
    for made in (fashion, sword):
        made.mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", 96), ("t10k", 32)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        for name, head, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            packed = gzip.compress(bytes(head) + values.tobytes())
            (fashion / f"{prefix}-{name}-ubyte.gz").write_bytes(packed)
    blocks = [zlib.compress(VERSES.encode() * 40) for _ in range(2)]
    (sword / "ot.bzz").write_bytes(b"".join(blocks))
    starts = [0, len(blocks[0])]
    index = [struct.pack("<III", at, len(b), 0) for at, b in zip(starts, blocks, strict=True)]
    (sword / "ot.bzs").write_bytes(b"".join([*index, struct.pack("<III", 0, 0, 0)]))
    return fashion, sword


def test_all_of_it_runs_on_the_cpu_without_ray(sources: tuple[Path, Path], tmp_path: Path):
    made, no_ray = tmp_path / "made", tmp_path / "no_ray"
    assert 1_000_000 < folder.make(*sources, made) < folder.MOST_BYTES
    text = gzip.decompress((made / "data" / "text.gz").read_bytes()).decode()
    assert text.startswith(" In the beginning was the word and the word was long. In the ")
    (no_ray / "ray").mkdir(parents=True)
    (no_ray / "ray" / "__init__.py").write_text("raise ImportError('there is no Ray here')")
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--device", "cpu", "--minutes", "1", "--out", str(out)]
    done = subprocess.run(
        ["bash", str(made / "bench" / "gpu" / "run.sh"), *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(no_ray)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["failed"] == []
    assert (found["device"], found["has_ray"]) == ("cpu", False)
    assert sum(name.startswith("check ") for name in found) == 6
    assert found["check compiled_steps_are_compiled_once"]["graphs"] > 0
    assert found["a step's kernels and waits"]["operations"] > 50
    assert len(found["costs"]) > 8
    runs = [row for row in found["quality"] if "method" in row]
    assert {(row["task"], row["method"]) for row in runs} == {
        (task, method)
        for task in ("gpt", "resnet")
        for method in ("default", "wsd", "cosine", "schedule_free")
    }
    assert all(0 < row["loss"] < 10 for row in runs)


def test_sources_that_lack_their_files_are_refused(sources: tuple[Path, Path], tmp_path: Path):
    fashion, sword = sources
    with pytest.raises(ValueError, match=r"no .bzs file of a SWORD module"):
        folder.make(fashion, fashion, tmp_path / "made")
    with pytest.raises(ValueError, match=r"has 0 files \*-ubyte.gz; Fashion-MNIST has 4"):
        folder.make(sword, sword, tmp_path / "made")
