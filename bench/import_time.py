"""How long imports take beside torch's own, in fresh interpreters.

    python -m bench.import_time

Seconds are those of the processor, user and system, medians of repetitions that take turns; the
first of each, which reads from the disk, is left out. tests/test_install.py tests what is loaded.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.measurement import Row, options, write_results

IMPORTS = {
    "torch": "import torch",
    "ray_autolrs": "import ray_autolrs",
    "find_lr": "from ray_autolrs import find_lr",
    "settings": "from ray_autolrs import AutoLRSConfig",
    "the report": "from ray_autolrs.cluster.run_report import write_report",
    "ray.train, torch": "import torch, ray.train, ray.train.torch",
    "AutoLRSTrainer": "from ray_autolrs import AutoLRSTrainer",
}

TOLD = "import os, sys; own = os.times(); print(own.user + own.system, len(sys.modules))"


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args(argv)
    write_results("import_time", vars(arguments), measure(arguments.repetitions))


def measure(repetitions: int) -> Iterator[Row]:
    seconds: dict[str, list[float]] = defaultdict(list)
    modules: dict[str, int] = {}
    for repetition in range(repetitions + 1):
        for name, code in IMPORTS.items():
            ran = subprocess.run(
                [sys.executable, "-c", f"{code}; {TOLD}"],
                capture_output=True,
                text=True,
                check=True,
            )
            taken_s, loaded = ran.stdout.split()
            modules[name] = int(loaded)
            if repetition > 0:
                seconds[name].append(float(taken_s))
    torch_s = statistics.median(seconds["torch"])
    for name, taken in seconds.items():
        median_s = statistics.median(taken)
        yield {
            "import": name,
            "s": median_s,
            "over torch's": median_s / torch_s,
            "modules": modules[name],
        }


if __name__ == "__main__":
    main()
