"""Each bench with few steps: it runs, and tells what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray

from bench import (
    averaging_grid,
    batch_regret,
    further_tasks,
    measurement,
    parallel_probes,
    probe_grid,
    research,
    snapshot_store,
    wrong_guess,
)
from bench.tasks.catalogue import FURTHER_TASKS

Rows = list[dict[str, Any]]
Run = Callable[[ModuleType, Sequence[str]], Rows]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a bench and gives the rows that it has written."""
    monkeypatch.setattr(measurement, "RESULTS_FOLDER", tmp_path)

    def run_bench(bench: ModuleType, arguments: Sequence[str]) -> Rows:
        bench.main(arguments)
        (path,) = tmp_path.iterdir()
        result = json.loads(path.read_text(encoding="utf-8"))
        assert result["command"].startswith(f"python -m {bench.__name__}")
        rows: Rows = result["rows"]
        return rows

    return run_bench


@pytest.mark.usefixtures("fashion")
def test_research_compares_a_misled_run_with_and_without_it(run: Run):
    options = ["--task", "mlp", "--factor", "1", "0.02", "--seed", "0", "--steps", "400"]
    good, misled = run(research, options)
    assert good["undisturbed"] == good["without"]
    assert misled["without"] > 1.1 * misled["undisturbed"]
    assert misled["undisturbed"] < misled["with"] < misled["without"]
    assert misled["search_with"] > misled["search_without"]
    won = misled["without"] - misled["with"]
    assert misled["won_back"] == pytest.approx(won / (misled["without"] - misled["undisturbed"]))


@pytest.mark.usefixtures("fashion")
def test_a_wrong_guess_is_compared_with_the_right_one(run: Run):
    options = ["--task", "mlp", "--factor", "0.125", "--seed", "0", "--steps", "120"]
    right, wrong = run(wrong_guess, options)
    assert (right["factor"], right["over_undisturbed"]) == (1.0, 1.0)
    assert wrong["over_undisturbed"] == wrong["validation_loss"] / right["validation_loss"]


def test_further_tasks_tune_a_rival_on_the_first_seed(run: Run):
    arguments = ["--task", "digits", "--method", "autolrs", "wsd", "--seed", "0", "1"]
    rows = run(further_tasks, [*arguments, "--steps", "60"])
    ours, rival = rows
    assert (ours["lr"], rival["lr"] in FURTHER_TASKS["digits"][1]) == (None, True)
    assert ours["search"] > 0 == rival["search"]
    for row in rows:
        assert len(row["losses"]) == 2
        assert all(map(math.isfinite, row["losses"]))
        pairs = zip(row["losses"], row["at_the_end"], strict=True)
        assert all(lowest <= last for lowest, last in pairs)


@pytest.mark.usefixtures("fashion")
def test_averaging_grid_takes_the_momentum_of_the_batch_or_the_given_one(run: Run):
    options = ["--task", "mlp", "--warmup", "0.2", "--decay", "0.3", "--steps", "20"]
    (given,) = run(averaging_grid, [*options, "--momentum", "0.5"])
    (derived,) = run(averaging_grid, options)
    assert given["momentum"] == 0.5
    assert derived["momentum"] == pytest.approx(0.8586, abs=1e-4)
    assert math.isfinite(given["validation_loss"])
    assert given["validation_loss"] != derived["validation_loss"]


@pytest.mark.usefixtures("fashion")
def test_probes_of_one_step_prefer_the_largest_lrs(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe_grid, "PROBES", 5)
    short, longer = run(probe_grid, ["--task", "mlp", "--steps", "1", "20", "--seed", "0"])
    assert short["log2_over_best"] > longer["log2_over_best"]
    assert short["std"] > 0


def test_regrets_are_paired_with_those_of_the_first_batch(run: Run):
    options = ["--curves", "2", "--noise", "0.05", "--kappa", "1000", "--batches", "1", "10"]
    one, ten = run(batch_regret, options)
    assert one["minus one by one"] == 0.0
    assert ten["minus one by one"] == pytest.approx(ten["mean regret"] - one["mean regret"])


@pytest.mark.ray
@pytest.mark.slow
def test_two_lanes_search_faster_than_one(run: Run):
    one, two = run(parallel_probes, ["--lanes", "1", "2", "--steps", "10"])
    assert two["search, s"] < one["search, s"]
    assert not ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_a_snapshot_is_copied_in_each_way(run: Run):
    options = ["--megabytes", "4", "--tensors", "6", "--lanes", "1", "--repetitions", "1"]
    rows = run(snapshot_store, options)
    assert [row["unit"] for row in rows] == ["ms"] * 5 + ["MB"] * 2
    assert all(row["value"] > 0 for row in rows[:6])
    assert not ray.is_initialized()
