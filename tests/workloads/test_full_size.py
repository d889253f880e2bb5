"""The full-size models take two optimizer steps on the CPU; their peak memory is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PARAMETERS = {"resnet50": 25_557_032, "transformer": 63_082_496, "bert": 110_106_428}
"""ResNet-50 and BERT base as torchvision and transformers publish them; the Transformer's paper
says 65 million for its base model, with its vocabulary of 37,000."""

FIRST_LOSS = {"resnet50": (5.0, 9.0), "transformer": (9.0, 14.0), "bert": (10.0, 12.5)}
"""Around the logarithm of the number of classes, 1000, 37,000 and 30,522 (and a pair's ln 2)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_two_steps_snapshot_and_restore(name, record_property):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "workloads" / "full_size.py"), name],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    record_property("peak_mib", found["peak_mib"])
    sys.stdout.write(f"{name}: peak memory {found['peak_mib']:.0f} MiB\n")
    assert found["parameters"] == PARAMETERS[name]
    low, high = FIRST_LOSS[name]
    first, second, again = found["losses"]
    assert low < first < high
    assert second == again != first
    assert found["sums"][1] == found["sums"][2] != found["sums"][0]
    # Weights, gradients, the optimizer's state and the snapshot, and Python's own libraries.
    assert found["peak_mib"] < 8 * 1024
