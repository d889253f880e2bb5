"""The benches of checkpoints: they run, and what they tell holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import checkpoint_pause, measurement
from bench.kill_matrix.__main__ import main as kill
from bench.kill_matrix.__main__ import read
from bench.kill_matrix.table import table


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
def test_a_run_that_is_killed_twice_in_its_steps_a_file_and_its_log_ends_at_the_same_bits(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("apply", "write", "log")
    options = ["--kills", "6", "--each", "2", "--what", "SIGKILL", "--place", *places]
    kill(options)
    rows = [json.loads(line) for line in (results / "kill_matrix.jsonl").read_text().splitlines()]
    assert [row["place"] for row in rows] == [*places]
    for row in rows:
        assert 1 <= row["kills"] <= 2
        assert not row["hung"]
        assert row["same_bits"]
        assert row["same_probes"]
    capsys.readouterr()
    kill(options)  # They are there already.
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 + len(places)
    assert told[2].startswith("| SIGKILL in apply | one process | 1 |")


def test_the_page_has_the_table_of_all_runs_that_were_killed() -> None:
    root = Path(__file__).parents[2]
    runs = read(root / "bench" / "results" / "kill_matrix.jsonl")
    assert table(runs) in (root / "docs" / "faults.md").read_text(encoding="utf-8")
    assert sum(run["kills"] for run in runs) > 0
