"""The benches of what a search costs beyond its own steps, at next to no size, and their table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench import deciding, measurement, probe_validation, snapshot, stage_overhead, table

CPU = torch.device("cpu")


def test_a_snapshot_is_compared_with_a_copy_of_the_same_bytes() -> None:
    (row,) = snapshot.measure([3], 3, CPU)
    assert row["MB"] == pytest.approx(3, rel=0.1)
    assert row["capture / copy"] > 0.5
    assert row["restore / copy"] > 0.5


def test_deciding_is_timed_with_scikit_optimize_where_it_is_there() -> None:
    (row,) = deciding.measure([3], 1)
    assert row["s"] > 0
    assert (row["ratio"] is None) == (row["scikit-optimize, s"] is None)


def test_all_that_is_no_step_is_what_steps_and_evaluations_leave() -> None:
    rows = [*stage_overhead.measure(2, 100, 0.001, 8)]
    assert [row["search"] for row in rows] == ["default", "paper"]
    for row in rows:
        assert row["steps"] > 200
        assert row["part"] == pytest.approx(row["neither step nor evaluation, s"] / row["wall, s"])
        assert 0 < row["part"] < 1


def test_the_table_has_each_figure_and_tells_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        {"step": "no average, over AdamW", "ratio": 1.01},
        {"step": "default, over schedulefree's AdamW", "ratio": 1.1},
    ]
    write(tmp_path, "steps", steps)
    copies = [("run, AdamW, averaged", 8.5), ("loop, schedulefree's AdamW", 4.0)]
    name = "copies of the parameters"
    write(tmp_path, "memory", [{"what": what, name: number} for what, number in copies])
    monkeypatch.setattr(table, "RESULTS_FOLDER", tmp_path)
    found = {row["figure"]: row for row in table.rows_of(tmp_path)}
    assert len(found) == len(table.FIGURES)
    assert found["apply step, no averaging"]["holds"] is True
    assert found["apply step, default"]["holds"] is False
    assert found["memory, in parameters (AdamW)"]["measured"] == 4.5
    assert found["probe's step"]["measured"] == "not measured"
    table.main([])
    assert (
        "| apply step, default | a loop with schedulefree's AdamW | 1.02" in capsys.readouterr().out
    )


def write(folder: Path, name: str, rows: Sequence[Any]) -> None:
    text = json.dumps({"commit": "abc", "rows": rows})
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("bench", [deciding, probe_validation, snapshot, stage_overhead])
def test_every_bench_writes_what_the_table_reads(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "RESULTS_FOLDER", tmp_path)
    monkeypatch.setattr(bench, "measure", lambda *_, **__: iter([{"row": 1}]))
    bench.main([])
    name = bench.__name__.removeprefix("bench.")
    assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == [{"row": 1}]
    assert name in {figure.bench for figure in table.FIGURES}
