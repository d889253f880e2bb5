from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]


def compare(*arguments, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "compare_schedules.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


TASK = """
from tests.digits_task import DigitsTask

class Mine(DigitsTask):
    def test_dataset(self):
        return self.part(slice(500, 600))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_comparison_on_a_task_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_task.py").write_text(TASK)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = compare(
        *("--task", "my_task:Mine", "--methods", "autolrs", "cosine", "--lrs", "0.01", "0.1"),
        *("--seeds", "0", "1", "--steps", "60", "--lr-min", "0.003", "--lr-max", "3"),
        *("--output", "out", "--address", ray.get_runtime_context().gcs_address),
        *("--max-concurrent", "2"),
        folder=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert "6 runs of 60 steps" in ran.stdout

    out = tmp_path / "out"
    with (out / "comparison.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"autolrs", "cosine"}
    assert rows["cosine"]["runs"] == "4"
    assert float(rows["cosine"]["total steps"]) == 4 * 60
    assert float(rows["autolrs"]["total steps"]) > 2 * 60
    assert float(rows["autolrs"]["search steps a run"]) > 0
    assert float(rows["autolrs"]["test loss"]) > 0
    assert (out / "comparison.md").read_text().strip() in ran.stdout
    assert (out / "comparison.png").stat().st_size > 10_000
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(one["method"], one["seed"], one["lr"]) for one in records] == [
        ("autolrs", 0, None),
        ("autolrs", 1, None),
        ("cosine", 0, 0.01),
        ("cosine", 0, 0.1),
        ("cosine", 1, 0.01),
        ("cosine", 1, 0.1),
    ]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("quickstart", "must be module:Class, for example quickstart:Digits"),
        ("quickstart:Residual", "Residual in quickstart is not a TrainingTask"),
    ],
)
def test_what_is_no_task_is_refused(task, message, tmp_path):
    ran = compare("--task", task, folder=tmp_path)
    assert ran.returncode != 0
    assert message in ran.stderr
