"""Each bench with few steps: it runs, and tells what it says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench import (
    averaging_grid,
    batch_regret,
    further_tasks,
    many_lanes,
    measurement,
    memory,
    parallel_probes,
    probe_grid,
    research,
    scale_model,
    steps,
    wrong_guess,
)
from bench.tasks.catalogue import FURTHER_TASKS

ROOT = Path(__file__).parents[2]

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
    options = ["--task", "mlp", "--factor", "0.02", "--seed", "0", "--steps", "300"]
    (misled,) = run(research, options)
    assert misled["without"] > 1.1 * misled["undisturbed"]
    assert misled["with"] < 0.5 * misled["without"]
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


def test_probe_grid_tells_how_far_the_probes_best_is_from_the_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    def losses_of_probe(task: str, lr: float, *settings: object) -> tuple[float, float]:
        return 3.0, 1.0 + math.log(lr / (2 * probe_grid.BEST[task])) ** 2

    monkeypatch.setattr(probe_grid, "probe_losses", losses_of_probe)
    (row,) = run(probe_grid, ["--task", "vit", "--seed", "0"])
    assert row["log2_over_best"] == pytest.approx(1.0, abs=0.1)
    assert 0 < row["std"] < 0.5


@pytest.mark.usefixtures("fashion")
def test_a_probe_ends_lower_than_it_began_unless_it_diverges():
    before, after = probe_grid.probe_losses("mlp", 3e-3, steps=20, warmup=0.5, seed=0)
    assert after < before
    _, diverged = probe_grid.probe_losses("mlp", 1e30, steps=4, warmup=0.0, seed=0)
    assert diverged == probe_grid.WORST_LOSS


def test_memory_is_told_in_copies_of_the_parameters(run: Run):
    rows = run(memory, ["--width", "300", "--device", "cpu"])
    copies = {row["what"]: row["copies of the parameters"] for row in rows}
    # Weights, gradients and a momentum; batches and biases are the rest.
    assert copies["loop, SGD"] == pytest.approx(3.0, abs=0.3)
    # Besides: the average, and three copies of the state of weights and average; no momentum.
    assert copies["run, SGD, averaged"] == pytest.approx(3 + 3 * 2, abs=1.3)


def test_steps_are_timed_in_turn(run: Run):
    rows = run(steps, ["--width", "8", "--rounds", "3", "--steps", "1", "--device", "cpu"])
    assert [row["step"].split(",")[0] for row in rows] == ["no average", "default", "a probe's"]
    assert all(0.1 < row["from"] <= row["ratio"] <= row["to"] < 10 for row in rows)


def test_regrets_are_paired_with_those_of_the_first_batch(run: Run):
    options = ["--curves", "2", "--noise", "0.05", "--kappa", "1000", "--batches", "1", "10"]
    one, ten = run(batch_regret, options)
    assert one["minus one by one"] == 0.0
    assert ten["minus one by one"] == pytest.approx(ten["mean regret"] - one["mean regret"])


def test_a_search_lasts_from_a_stages_end_to_the_next_choice():
    kinds = ["probe", "choice", "apply", "probe", "choice", "apply", "choice", "apply"]
    records = [{"kind": kind, "time": 2.0**place} for place, kind in enumerate(kinds)]
    assert parallel_probes.search_seconds(records) == [2.0**4 - 2.0**2, 2.0**6 - 2.0**5]


def test_one_of_the_lanes_is_the_worker():
    config = parallel_probes.settings(lanes=5, probes=10, steps=100)
    resolved = config.resolve(global_batch_size=parallel_probes.Waiting.global_batch_size)
    assert resolved.lanes.actors == 4
    assert resolved.search.most_parallel_probes == 10
    assert parallel_probes.settings(lanes=1, probes=10, steps=100).lanes.kind == "workers"


COPIES = """
import sys
from pathlib import Path
import ray
from bench import measurement, snapshot_store
measurement.RESULTS_FOLDER = Path(sys.argv[1])
snapshot_store.main(sys.argv[2:])
assert not ray.is_initialized()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_snapshot_is_copied_in_each_way(tmp_path: Path, ray_folder: Callable[[], Path]):
    """In a process of its own, for there may be a Ray in this one."""
    options = ["--megabytes", "4", "--tensors", "6", "--lanes", "1", "--repetitions", "1"]
    ran = subprocess.run(
        [sys.executable, "-c", COPIES, str(tmp_path), *options],
        cwd=ROOT,
        env=os.environ | {"RAY_TMPDIR": str(ray_folder())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (path,) = tmp_path.iterdir()
    rows: Rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["unit"] for row in rows] == ["ms"] * 5 + ["MB"] * 2
    assert all(row["value"] > 0 for row in rows[:6])


@pytest.mark.parametrize("measured", ["parallel_probes", "parallel_probes_32"])
def test_the_model_of_a_search_is_within_a_fifth_of_what_was_measured(measured: str):
    results = Path(measurement.__file__).parent / "results" / f"{measured}.json"
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    assert rows
    for row in rows:
        rounds = math.ceil(row["probes"] / row["lanes"])
        predicted_s = scale_model.search_s(row["one probe, s"], rounds)
        assert predicted_s == pytest.approx(row["search, s"], rel=0.2), row


def test_the_model_of_scale_tells_what_lanes_and_failures_do(run: Run):
    few, many = run(scale_model, ["--gpus", "8", "4096"])
    # One after the other, ten probes of a tenth of a stage take as long as the stage.
    assert few["search / training"] == pytest.approx(1.0, rel=1e-3)
    # Where the exchange of gradients is most of a step, lanes of fewer workers lose less to it.
    assert many["with lanes"] < 0.5 < few["with lanes"]
    assert 0 < many["goodput"] < few["goodput"] < 0.5


def test_many_lanes_share_one_search_actor(run: Run):
    (row,) = run(many_lanes, ["--lanes", "20"])
    assert (row["lanes"], row["probes"]) == (20, 60)
    assert row["probes / s"] == pytest.approx(60 / (3 * row["search, s"]))
