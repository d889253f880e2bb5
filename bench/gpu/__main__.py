"""All that is to be known of a GPU, in ten minutes and one JSON; run.sh calls it.

    bash bench/gpu/run.sh --minutes 10

Checks come first, then costs, then quality, which takes the time that is left. What fails is told
in the JSON and does not keep the rest from being run; the exit status says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the folder made for it")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--device", default=None, help="cuda unless it is named")
    parser.add_argument("--tiny", action="store_true", help="every part, at next to no size")
    arguments = parser.parse_args(argv)
    sys.path.append(str(arguments.root / "site"))
    return _Report(arguments).run()


class _Report:
    """What was found so far, and the file that it is written to after each part."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._end_s = time.monotonic() + 60 * arguments.minutes
        self._found: dict[str, Any] = {}
        self._failed: list[str] = []

    def run(self) -> int:
        import torch

        from bench.gpu.checks import CHECKS
        from bench.gpu.costs import figures, synchronisations
        from bench.gpu.quality import compare

        arguments = self._arguments
        is_tiny, data = arguments.tiny, arguments.root / "data"
        device = torch.device(arguments.device or "cuda")
        torch.set_num_threads(1) if is_tiny else None
        is_gpu = device.type == "cuda"
        stamp = arguments.root / "COMMIT"
        self._found = {
            "commit": stamp.read_text().strip() if stamp.exists() else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
            "tiny": is_tiny,
            "minutes": arguments.minutes,
            "has_ray": "ray" in sys.modules,
        }
        for check in CHECKS:
            self._part(f"check {check.__name__}", lambda check=check: check(device))
        self._part("a step's kernels and waits", lambda: synchronisations(device))
        self._part("costs", lambda: self._rows("costs", figures(device, is_tiny=is_tiny)))
        left_s = self._end_s - time.monotonic()
        runs = compare(data, device, left_s, is_tiny=is_tiny)
        self._part("quality", lambda: self._rows("quality", runs))
        self._found |= {"has_ray": "ray" in sys.modules, "failed": self._failed}
        self._write()
        print("FAILED: " + ", ".join(self._failed) if self._failed else "all holds", flush=True)
        return 1 if self._failed else 0

    def _rows(self, name: str, rows: Any) -> list[Any]:
        done: list[Any] = []
        for row in rows:
            done.append(row)
            print(row, flush=True)
            self._found[name] = done  # Kept where a later row fails.
            self._write()
        return done

    def _part(self, name: str, action: Callable[[], Any]) -> None:
        started_s = time.monotonic()
        try:
            self._found[name] = action()
        except Exception as error:  # A device that nobody has seen may fail in any way.
            self._failed.append(name)
            self._found[f"{name}: error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self._found.setdefault("seconds", {})[name] = round(time.monotonic() - started_s, 1)
        print(f"{name}: {'failed' if name in self._failed else 'done'}", flush=True)
        self._write()

    def _write(self) -> None:
        self._arguments.out.write_text(json.dumps(self._found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
