"""The benches of checkpoints: they run, and what they tell holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import checkpoint_pause, measurement
from bench.kill_matrix.__main__ import main as kill


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(measurement, "RESULTS_FOLDER", tmp_path)
    return tmp_path


def test_the_pause_is_measured_beside_a_plain_copy(results: Path) -> None:
    checkpoint_pause.main(["--mb", "3", "--repetitions", "2"])
    rows = json.loads((results / "checkpoint_pause.json").read_text())["rows"]
    found = {row["what"]: row for row in rows}
    assert found["plain copy"]["number"] == found["training stands still"]["number"] == 2
    assert found["ratio"]["lowest"] > 0
    assert found["write, in the background"]["median"] > 0


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_in_its_steps_a_file_and_its_log_ends_at_the_same_bits(
    results: Path,
) -> None:
    kill(["--kills", "4", "--place", "probe", "apply", "write", "log", "--seed", "1"])
    rows = json.loads((results / "kill_matrix.json").read_text())["rows"]
    kinds = [f"SIGKILL in {place}" for place in ("probe", "apply", "write", "log")]
    assert [row["kind"] for row in rows] == kinds
    for row in rows:
        assert row["kills"] == 1
        assert row["hung"] == row["other bits"] == row["probes"] == 0
