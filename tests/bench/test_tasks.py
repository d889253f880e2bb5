from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.catalogue import FURTHER_TASKS, GOOD_LRS, HELD_OUT, LEARNING_RATES, TASKS
from bench.tasks.text_data import masked_text
from ray_autolrs.training.batches import take_samples

ALL_TASKS = {**TASKS, **{name: make for name, (make, _) in FURTHER_TASKS.items()}}


@pytest.mark.usefixtures("fashion", "parallel_text")
@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_task_builds_and_takes_two_steps(name):
    task = ALL_TASKS[name]()
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    sets: list[Any] = [task.train_dataset(), task.val_dataset(), task.test_dataset()]
    assert len(sets[0]) > task.global_batch_size
    for step in range(2):
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
