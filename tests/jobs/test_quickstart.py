from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TIME_LIMIT_S = 240
"""Of the demonstration on two cores, with all its steps."""


@pytest.mark.ray
@pytest.mark.slow
def test_quickstart_by_the_paper(tmp_path, ray_folder):
    started = time.monotonic()
    # Three stages: two seeds ended at 99% after them (1150 steps, the default, have four).
    options = ["--address", "local", "--method", "paper", "--total-steps", "450"]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "quickstart.py"), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
        env=os.environ | {"RAY_TMPDIR": str(ray_folder())},
    )
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - started < TIME_LIMIT_S
    accuracy = re.search(r"test accuracy: ([\d.]+)", ran.stdout)
    assert accuracy
    assert float(accuracy[1]) >= 0.97

    table = ran.stdout.strip().split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in table] == ["stage", "warm-up", "1", "2", "3", "sum"]

    run = tmp_path / "runs" / "quickstart"
    assert json.loads((run / "config.json").read_text())["settings"]["total_steps"] == 450
    kinds = [json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds.count("probe") == 30
    assert kinds[-1] == "finished"
    assert (run / "schedule.json").exists()
    assert list(run.glob("checkpoint_*/model.pt"))

    # One line for each decision, and no progress bar where there is no terminal.
    assert len(re.findall(r"stage \d: apply lr", ran.stderr)) == 3
    assert len(re.findall(r"probe \d+: lr", ran.stderr)) == 30
    assert "step/s" not in ran.stderr
