from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from bench import quality_runs
from bench.quality_data import TRANSLATION_FOLDER
from bench.quality_lrs import LEARNING_RATES
from bench.quality_runs import Records, make_runs, plan, plan_tuned, read_records
from bench.quality_table import Mean, page, speedups
from bench.quality_tasks import HELD_OUT, TASKS
from ray_autolrs.comparison.record import RunRecord, steps_to
from ray_autolrs.comparison.table import tuned_methods
from ray_autolrs.training.batches import take_samples
from ray_autolrs.workloads.small_images import FASHION_DEBIAN_FOLDER
from tests.digits_task import DigitsTask

ON_IMAGES = {"cnn", "cnn256", "mlp", "vit"}


def record(method, lr, seed, val_loss, *, search_steps=0.0, curve=()):
    diverged = not math.isfinite(val_loss)
    return RunRecord(
        method=method,
        lr=lr,
        seed=seed,
        steps=100,
        curve=curve or (() if diverged else ((50, val_loss + 1.0), (100, val_loss))),
        val_loss=val_loss,
        test_loss=None if diverged else val_loss + 0.1,
        diverged=diverged,
        search_steps=search_steps,
        seconds=2.0,
    )


@pytest.fixture
def say():
    said: list[str] = []
    yield said.append
    assert said


@pytest.mark.parametrize("name", TASKS)
def test_a_task_builds_and_takes_two_steps(name):
    if name in ON_IMAGES and not Path(FASHION_DEBIAN_FOLDER).is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    if name == "translation" and TRANSLATION_FOLDER not in os.environ:
        pytest.skip(f"{TRANSLATION_FOLDER} names no folder of aligned text")
    task = TASKS[name]()
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    sets: list[Any] = [task.train_dataset(), task.val_dataset(), task.test_dataset()]
    assert len(sets[0]) > 2 * task.global_batch_size
    for step in range(2):
        rows = range(step * task.global_batch_size, (step + 1) * task.global_batch_size)
        loss = task.loss(model, task.collate(take_samples(sets[0], list(rows))))
        assert loss.shape == ()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item())
    with torch.no_grad():
        for dataset in sets[1:]:
            assert math.isfinite(task.loss(model, task.collate(take_samples(dataset, [0, 1]))))
        one_by_one = task.collate([sets[1][0], sets[1][0]])
        assert math.isfinite(task.loss(model, one_by_one))


def test_every_task_has_its_learning_rates():
    assert LEARNING_RATES.keys() == TASKS.keys()
    assert {*HELD_OUT} < TASKS.keys()
    for rates in LEARNING_RATES.values():
        assert rates.search[1] / rates.search[0] >= 999
        assert len(rates.rivals) == len(rates.schedule_free) == 5


def test_runs_are_kept_and_not_made_again(tmp_path, monkeypatch, say):
    made = []

    def run_trial(task, trial):
        made.append(trial)
        return record(trial.method, trial.lr, trial.seed, 1.0)

    monkeypatch.setattr(quality_runs, "run_trial", run_trial)
    monkeypatch.setattr(quality_runs, "TASKS", {"mlp": DigitsTask})
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

    monkeypatch.setattr(quality_runs, "run_trial", run_trial)
    monkeypatch.setattr(quality_runs, "TASKS", {"mlp": DigitsTask})
    path = tmp_path / "quality.jsonl"
    runs = plan(["mlp"], ["autolrs"], [0, 1], 100)
    with pytest.raises(RuntimeError, match="1 runs failed, the first with mlp autolrs"):
        make_runs(runs, path, processes=0, say=say)
    assert [key[3] for key in read_records(path)] == [1]


def test_a_run_in_a_process_of_its_own(tmp_path, say):
    if not Path(FASHION_DEBIAN_FOLDER).is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    runs = plan(["mlp"], ["cosine"], [0], 4, lrs=[1e-3])
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


def synthetic():
    """Two tasks; the grid was run on seed 0; AutoLRS is better on one and worse on the other."""
    records = {}
    for task, ours in (("cnn", 0.30), ("rnn", 0.42)):
        runs = [record("cosine", lr, 0, loss) for lr, loss in ((0.1, 0.5), (0.3, 0.4), (1.0, 0.6))]
        runs += [record("cosine", 0.3, seed, 0.4 + 0.01 * seed) for seed in (1, 2)]
        runs += [record("wsd", lr, 0, loss) for lr, loss in ((0.1, 0.45), (0.3, math.inf))]
        runs += [record("wsd", 0.1, seed, 0.45) for seed in (1, 2)]
        runs += [
            record(
                "autolrs",
                None,
                seed,
                ours + 0.01 * seed,
                search_steps=10.0,
                curve=((50, 0.5), (100, ours + 0.01 * seed)),
            )
            for seed in (0, 1, 2)
        ]
        for run in runs:
            records[task, run.method, run.lr, run.seed, run.steps] = run
    return records


def test_the_page_holds_every_figure():
    text = page(synthetic(), 100)
    summary = next(line for line in text.splitlines() if line.startswith("| cnn "))
    assert summary.split(" | ")[1:5] == ["0.31", "cosine", "0.41", "-0.1000 ± 0.0000"]
    # Seed 0: half of the way from 0.5 at step 50 to 0.3 at step 100, so 75 steps to 0.4.
    needed = [75, 50 + 50 * 9 / 19, 50 + 50 * 8 / 18]
    plain = statistics.geometric_mean(100 / steps for steps in needed)
    charged = statistics.geometric_mean(100 / (steps + 10) for steps in needed)
    assert summary.split(" | ")[7:10] == ["10.0%", f"{plain:.2f}", f"{charged:.2f}"]
    assert "| rnn (held out) |" in text
    assert "+0.0200 ± 0.0000" in text
    assert "## rnn, held out" in text
    cosine = next(line for line in text.splitlines() if line.startswith("| cosine | 0.3 |"))
    assert "0.4000 / 0.4100 / 0.4200" in cosine
    assert "0.5000 / 0.5100 / 0.5200" in cosine
    assert "| 300 |" in cosine  # three LRs on the tuning seed
    assert "| wsd | 0.1* |" in text
    assert "by validation loss on seed 0, and" in text
    assert "Means over the 2 tasks" in text
    assert "- difference in validation loss: -0.0400 ± " in text


def test_the_page_of_other_steps_is_refused():
    with pytest.raises(ValueError, match="no task has runs of both autolrs and cosine with 7"):
        page(synthetic(), 7)


def test_speedups_count_a_run_that_does_not_get_there_as_one():
    methods = tuned_methods(run for key, run in synthetic().items() if key[0] == "rnn")
    assert speedups(methods["autolrs"], methods["cosine"], with_search=True) == [1.0, 1.0, 1.0]


def test_means_and_their_intervals():
    # t of 2 degrees of freedom at 97.5% is 4.303.
    assert Mean.of([1.0, 2.0, 3.0]).half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert Mean.of([1.0]).half_width is None


def test_records_survive_the_file_and_refuse_nonsense():
    run = record("cosine", 0.1, 0, math.inf)
    assert RunRecord.from_dict(run.to_dict()) == run
    assert steps_to(record("cosine", 0.1, 0, 0.4), 0.9) == 75.0
    with pytest.raises(ValueError, match="finite exactly if it did not diverge"):
        dataclasses.replace(run, diverged=False)


def test_prodigy_is_what_the_bench_compares_with():
    if importlib.util.find_spec("prodigyopt") is None:
        pytest.skip("the package prodigyopt is not installed; the bench needs it for one rival")
    assert plan(["mlp"], ["prodigy"], [0], 100)[0].trial.lr == 1.0


@pytest.mark.parametrize("text", ["english", "source", "german", "help"])
def test_masked_words_are_the_same_in_every_process(text, tmp_path):
    """Runs of different processes are compared: they must read the same tokens."""
    for language in ("en", "de"):
        text_file = tmp_path / f"train.{language}"
        text_file.write_text("\n".join(topics.values()), encoding="utf-8")
    code = (
        "from bench.text_windows import masked_text\n"
        f"windows = masked_text({text!r}, 'validation', places=24, masked=4, vocabulary=1000)\n"
        "print(hash(tuple(windows.tensors[0].flatten().tolist())))"
    )
    environment = os.environ | {TRANSLATION_FOLDER: str(tmp_path)}
    root = Path(__file__).parents[1]
    run = partial(subprocess.run, [sys.executable, "-c", code], cwd=root, env=environment)
    first, second = (run(capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second != ""
