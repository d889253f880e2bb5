from __future__ import annotations

import importlib.util
import math

import pytest

from bench.quality.runs import RESULTS, Records, make_runs, plan, plan_tuned, read_records
from bench.tasks.catalogue import LEARNING_RATES
from tests.bench.records import record
from tests.digits_task import DigitsTask


@pytest.fixture
def say():
    said: list[str] = []
    yield said.append
    assert said


def test_the_records_on_file_can_be_read():
    records = read_records(RESULTS)
    assert len(records) > 800
    assert records["cnn", "autolrs", None, 0, 2300].search_steps > 0


def test_runs_are_kept_and_not_made_again(tmp_path, monkeypatch, say):
    made = []

    def run_trial(task, trial):
        made.append(trial)
        return record(trial.method, trial.lr, trial.seed, 1.0)

    monkeypatch.setattr("bench.quality.runs.run_trial", run_trial)
    monkeypatch.setattr("bench.quality.runs.TASKS", {"mlp": DigitsTask})
    path = tmp_path / "quality.jsonl"
    first = plan(["mlp"], ["cosine", "autolrs"], [0], 100, lrs=[0.1, 1.0])
    make_runs(first, path, processes=0, say=say)
    assert [(trial.method, trial.lr) for trial in made] == [
        ("cosine", 0.1),
        ("cosine", 1.0),
        ("autolrs", None),
    ]
    assert made[2].lr_interval == LEARNING_RATES["mlp"].search

    more = plan(["mlp"], ["cosine", "autolrs"], [0, 1], 100, lrs=[0.1, 1.0])
    records = make_runs(more, path, processes=0, say=say)
    assert len(made) == len(records) == 6
    assert records == read_records(path)
    assert all(trial.seed == 1 for trial in made[3:])

    make_runs(first[:1], path, processes=0, say=say, redo=True)
    assert len(made) == 7
    assert len(read_records(path)) == 6
    assert len(path.read_text().splitlines()) == 7


def test_a_run_that_fails_leaves_the_others(tmp_path, monkeypatch, say):
    def run_trial(task, trial):
        if trial.seed == 0:
            raise ValueError("no data")
        return record(trial.method, trial.lr, trial.seed, 1.0)

    monkeypatch.setattr("bench.quality.runs.run_trial", run_trial)
    monkeypatch.setattr("bench.quality.runs.TASKS", {"mlp": DigitsTask})
    path = tmp_path / "quality.jsonl"
    runs = plan(["mlp"], ["autolrs"], [0, 1], 100)
    with pytest.raises(RuntimeError, match="1 runs failed, the first with mlp autolrs"):
        make_runs(runs, path, processes=0, say=say)
    assert [key[3] for key in read_records(path)] == [1]


def test_a_run_in_a_process_of_its_own(tmp_path, say):
    runs = plan(["rnn"], ["cosine"], [0], 4, lrs=[0.1])
    records = make_runs(runs, tmp_path / "quality.jsonl", processes=1, say=say)
    (found,) = records.values()
    assert math.isfinite(found.val_loss)
    assert found.test_loss is not None


def test_the_best_of_one_seed_is_run_on_the_others():
    records: Records = {
        ("mlp", "cosine", lr, 0, 100): record("cosine", lr, 0, loss)
        for lr, loss in ((0.1, 0.5), (0.3, 0.4), (1.0, math.inf))
    }
    others = plan(["mlp"], ["cosine"], [1, 2], 100, lrs=[0.1, 0.3, 1.0])
    chosen = plan_tuned(others, records, tuning_seed=0)
    assert [(run.trial.lr, run.trial.seed) for run in chosen] == [(0.3, 1), (0.3, 2)]
    with pytest.raises(ValueError, match="make the tuning seed's runs first"):
        plan_tuned(others, records, tuning_seed=5)


def test_prodigy_is_what_the_bench_compares_with():
    if importlib.util.find_spec("prodigyopt") is None:
        pytest.skip("the package prodigyopt is not installed; the bench needs it for one rival")
    assert plan(["mlp"], ["prodigy"], [0], 100)[0].trial.lr == 1.0
