from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.catalogue import FURTHER_TASKS, GOOD_LRS, HELD_OUT, LEARNING_RATES, TASKS
from bench.tasks.fine_tuning import LowRankLM, SourceLM
from bench.tasks.optimizers import Lion
from bench.tasks.pretraining import CACHE_FOLDER, pretrained
from bench.tasks.suite import GROUPS, SUITE
from bench.tasks.tabular import Diabetes
from bench.tasks.text_data import masked_text
from ray_autolrs.training.batches import take_samples

ALL_TASKS = {name: task.make for name, task in SUITE.items()}


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.mark.usefixtures("fashion", "parallel_text")
@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_task_builds_and_takes_three_steps(name, monkeypatch, weights_folder):
    monkeypatch.setenv(CACHE_FOLDER, str(weights_folder))
    task = ALL_TASKS[name]()
    if hasattr(task, "pretraining_steps"):
        task.pretraining_steps = 2
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    sets: list[Any] = [task.train_dataset(), task.val_dataset(), task.test_dataset()]
    assert len(sets[0]) > task.global_batch_size
    for step in range(3):
        rows = range(step * task.global_batch_size, (step + 1) * task.global_batch_size)
        batch = take_samples(sets[0], [row % len(sets[0]) for row in rows])
        loss = task.loss(model, task.collate(batch))
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
    assert GOOD_LRS.keys() == TASKS.keys() - {*HELD_OUT}
    for rates in LEARNING_RATES.values():
        assert rates.search[1] / rates.search[0] >= 999
        assert len(rates.rivals) == len(rates.schedule_free) == 5
    assert all(len(lrs) == 5 for _, lrs in FURTHER_TASKS.values())


def test_the_suite_is_wide_enough():
    assert ALL_TASKS.keys() >= TASKS.keys() | FURTHER_TASKS.keys()
    assert len(SUITE) >= 24
    assert len(GROUPS) >= 8
    batches = {task.batch for task in SUITE.values()}
    assert (min(batches), max(batches)) == (8, 1024)
    for name, task in SUITE.items():
        low, high = task.interval
        for grid in (task.lrs, task.schedule_free_lrs):
            assert len(grid) == 5, name
            factors = [after / before for before, after in pairwise(grid)]
            assert all(2.9 < factor < 3.4 for factor in factors), name
            assert low <= grid[0], name
            assert grid[-1] <= high, name


def test_pretrained_weights_leave_random_numbers_alone(tmp_path, monkeypatch):
    """Whether they were on disk must not change the run that begins with them."""
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path))
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        weights = pretrained(Diabetes(), steps=3, seed=1, version=1)
        states.append((torch.rand(3).tolist(), weights["0.bias"].tolist()))
    assert states[0] == states[1]
    assert len(list(tmp_path.iterdir())) == 1
    pretrained(Diabetes(), steps=3, seed=1, version=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_only_the_adapters_are_trained(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path))
    task = LowRankLM()
    task.pretraining_steps = 1
    model = task.build_model()
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(name.endswith((".down", ".up")) for name in trained)
    ids = torch.zeros(1, 5, dtype=torch.long)
    base = SourceLM().build_model()
    base.load_state_dict(pretrained(SourceLM(), steps=1, seed=0, version=1))
    torch.testing.assert_close(model(ids), base(ids))  # they begin at zero


def test_lion_steps_by_the_sign():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = Lion([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.tensor([3.0, -0.01, 0.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.85, 1.05, 0.95])
    weight.grad = torch.tensor([-0.1, -0.01, 0.0])
    optimizer.step()  # 0.9 of the momentum of 0.03 is more than 0.1 of the gradient of -0.1
    assert weight[0].item() == pytest.approx(0.85 * 0.95 - 0.1)


def test_masked_words_are_the_same_in_every_process():
    """Runs of different processes are compared: they must read the same tokens."""
    code = (
        "from bench.tasks.text_data import masked_text\n"
        "windows = masked_text('english', 'validation', places=24, masked=4, vocabulary=1000)\n"
        "print(hash(tuple(windows.tensors[0].flatten().tolist())))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    windows = masked_text("english", "validation", places=24, masked=4, vocabulary=1000)
    assert hash(tuple(windows.tensors[0].flatten().tolist())) == int(told)
