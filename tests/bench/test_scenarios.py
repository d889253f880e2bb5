"""Tasks that change in mid-run, schedules planned beforehand, and the tables of the scenarios."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bench.scenarios.__main__ import main
from bench.scenarios.changing_tasks import CHANGING_TASKS, SMALL_BATCH, ChangingDigits, shifted
from bench.scenarios.made import ScenarioRun, key_of, read_runs
from bench.scenarios.planned import Continued, Scenario
from bench.scenarios.scenario_table import rival_score, tables
from ray_autolrs.comparison.baselines import BASELINES
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.snapshot import Snapshot
from tests.bench.records import record


def engine_of(task, seed=0):
    return Engine(task, Solo(), torch.device("cpu"), seed=seed)


def follow(engine, first_step, count):
    table = engine.loss_table(count)
    for _ in engine.steps(first_step, count, lambda step: 0.05, table):
        pass
    return table.mean(dim=1).tolist()


def test_a_shift_is_seen_at_its_step_by_every_run_from_a_snapshot_and_by_validation():
    changed, plain = engine_of(ChangingDigits("shift", 5)), engine_of(ChangingDigits())
    validation = changed.evaluation(changed.replica.task.val_dataset())
    follow(changed, 0, 2)
    snapshot = Snapshot()
    snapshot.capture(changed.replica, 2)
    losses = follow(changed, 2, 6)
    after = changed.evaluate(validation, 8)["loss"]
    snapshot.restore(changed.replica)
    before = changed.evaluate(validation, 2)["loss"]
    assert follow(changed, 2, 6) == losses
    assert follow(plain, 0, 8)[2:5] == losses[:3]
    assert follow(engine_of(ChangingDigits()), 0, 8)[5] != losses[3]
    with torch.no_grad():
        changed.replica.module.taken.fill_(4)
    assert changed.evaluate(validation, 8)["loss"] != after != before


def test_a_shift_turns_images_and_halves_values():
    images = torch.arange(8.0).view(2, 2, 2)
    assert shifted(images)[0].tolist() == [[0.5, 1.5], [0.0, 1.0]]
    assert shifted(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1.5, 1.0, 0.5]]


class Noting(ChangingDigits):
    """Notes how many samples its loss is taken of."""

    def __init__(self, change, at):
        super().__init__(change, at)
        self.counted = []

    def loss_of(self, outputs, targets):
        self.counted.append(len(targets))
        return super().loss_of(outputs, targets)


def test_a_batch_grows():
    task = Noting("growth", 3)
    assert task.global_batch_size > SMALL_BATCH
    follow(engine_of(task), 0, 5)
    assert task.counted == [SMALL_BATCH] * 3 + [task.global_batch_size] * 2


def test_the_body_is_frozen_until_it_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTOLRS_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("bench.scenarios.changing_tasks.PRETRAINING_STEPS", 3)
    engine = engine_of(ChangingDigits("unfreezing", 3))
    model = engine.replica.module
    body, head = model.body[1].weight.clone(), model.head.weight.clone()
    follow(engine, 0, 3)
    assert torch.equal(model.body[1].weight, body)
    assert not torch.equal(model.head.weight, head)
    follow(engine, 3, 1)
    assert not torch.equal(model.body[1].weight, body)


@pytest.mark.parametrize("name", CHANGING_TASKS)
@pytest.mark.usefixtures("fashion")
def test_every_task_trains(name):
    losses = follow(engine_of(CHANGING_TASKS[name]("none", 0)), 0, 30)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_schedule_goes_on_with_a_second_cycle_or_as_it_is():
    cosine, constant = (BASELINES[name].lrs(20, 1.0) for name in ("cosine", "schedule_free"))
    twice, on = Continued(cosine, cosine, 20), Continued(constant, None, 20)
    assert [twice.lr_at(step) for step in range(20, 40)] == [cosine.lr_at(s) for s in range(20)]
    assert [on.lr_at(step) for step in (0, 19, 30)] == [1.0, 1.0, 1.0]


def made(method, lr, curve, scenario="data shift", seed=0, **values):
    key = key_of(scenario, "digits", method, lr, seed, 100)
    return ScenarioRun(key, record(method, lr, seed, curve[-1][1], curve=curve, **values))


def test_a_rival_has_its_best_lr_and_the_one_that_suits_the_first_part():
    curves = {0.1: ((40, 1.0), (100, 3.0)), 0.3: ((40, 2.0), (100, 2.5))}
    score = rival_score([made("cosine", lr, curve) for lr, curve in curves.items()])
    assert (score.best, score.first) == (2.5, 3.0)
    diverged = made("cosine", 0.3, ((40, math.inf),))
    assert diverged.score == math.inf
    assert rival_score([diverged, made("cosine", 0.1, curves[0.1])]).best == 3.0


def test_evaluations_count_from_the_change_on():
    run = made("default", None, ((40, 0.5), (60, 2.0), (80, 1.0), (100, 1.5)))
    assert (run.score, run.before) == (1.0, 0.5)
    assert Scenario(planned=0.5).scored_after(100) == 50
    assert Scenario().scored_after(100) == 0


def test_the_tables_are_computed_from_the_runs():
    runs = [
        made("cosine", 0.1, ((40, 1.0), (100, 3.0))),
        made("cosine", 0.3, ((40, 2.0), (100, 2.5))),
        made("default", None, ((40, 1.0), (100, 2.2)), search_steps=8.0),
        made("staged", None, ((40, 1.0), (100, 2.0)), search_steps=21.0),
    ]
    text = tables({run.key: run for run in runs}, ["digits"], [0], 100)
    assert "| data shift | 2.5 (3) |" in text
    for part in ("-20.0%", "-33.3%", "-9.1%", "21%", "8%"):
        assert part in text
    assert "growing batch" not in text


def test_scenarios_are_run_once_and_told(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    command = ["--task", "digits", "--steps", "100", "--runs", str(path)]
    main(["--run", "--method", "cosine", "--scenario", "no change", *command])
    scenarios = ["--scenario", "data shift", "first LR too high by 4", "twice as long"]
    main(["--run", "--method", "cosine", "staged", *scenarios, *command])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 3 + (3 + 1) + (1 + 1) + (3 + 1)
    undisturbed = [run for run in lines if run["scenario"] == "no change"]
    best = min(undisturbed, key=lambda run: run["val_loss"])
    wrong = [run["lr"] for run in lines if run["scenario"].startswith("first") and run["lr"]]
    assert wrong == [pytest.approx(4 * best["lr"])]
    main(["--run", "--method", "cosine", "staged", *scenarios, *command])
    assert len(read_runs(path)) == len(lines) == len(path.read_text().splitlines())
    capsys.readouterr()
    main(["--table", *command])
    told = capsys.readouterr().out
    assert told.startswith("digits")
    assert "| twice as long |" in told
