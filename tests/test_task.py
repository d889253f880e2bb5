from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from ray_autolrs.task import TrainingTask, _blocks
from tests.training.toy import ToyTask, plain_net


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "workers", "expected"),
    [(16, None, 1, 16), (16, None, 4, 4), (16, 2, 2, 2), (16, 8, 2, 8), (1, None, 1, 1)],
)
def test_the_micro_batch(global_batch: int, micro_batch: int | None, workers: int, expected: int):
    task = ToyTask(global_batch_size=global_batch, micro_batch_size=micro_batch)
    assert task.resolved_micro_batch_size(workers) == expected


@pytest.mark.parametrize(
    ("settings", "workers", "message"),
    [
        ({"global_batch_size": 0}, 1, "ToyTask.global_batch_size=0 must be an integer"),
        ({"global_batch_size": 2.0}, 1, "ToyTask.global_batch_size=2.0 must be an integer"),
        ({"global_batch_size": True}, 1, "ToyTask.global_batch_size=True must be an integer"),
        ({}, 3, "global_batch_size=16 must be divisible by num_workers=3; use 15 or 18"),
        ({"global_batch_size": 2}, 4, "must be divisible by num_workers=4; use 4$"),
        ({"micro_batch_size": 3}, 1, r"micro_batch_size=3 must divide .* 16 / 1 = 16"),
        ({"micro_batch_size": 16}, 2, "micro_batch_size=16 must divide .* 16 / 2 = 8"),
        ({"micro_batch_size": 0}, 1, "micro_batch_size=0 must divide"),
        ({"micro_batch_size": 4.0}, 1, r"micro_batch_size=4\.0 must divide"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(settings: dict[str, Any], workers: int, message: str):
    with pytest.raises(ValueError, match=message):
        ToyTask(**settings).resolved_micro_batch_size(workers)


def test_a_forgotten_batch_size_is_named():
    class Forgetful(ToyTask):
        global_batch_size = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"Forgetful\.global_batch_size=None"):
        Forgetful().resolved_micro_batch_size(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval_batch_size", 0),
        ("eval_batch_size", 1.5),
        ("loader_workers", -1),
        ("loader_workers", None),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", float("nan")),
        ("precision", "fp64"),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, value: Any):
    with pytest.raises(ValueError, match=rf"ToyTask\.{name}={value!r} must be"):
        ToyTask(**{name: value}).check_settings()


def test_good_settings_pass():
    ToyTask(
        eval_batch_size=3, loader_workers=2, max_grad_norm=0.5, precision="bf16"
    ).check_settings()
    ToyTask().check_settings()


def test_defaults_of_what_a_task_may_leave_out():
    task = ToyTask()
    assert TrainingTask.metrics(task, plain_net(), None) == {}
    x, y = task.collate([(torch.ones(6), 1), (torch.zeros(6), 2)])
    assert x.shape == (2, 6)
    assert y.tolist() == [1, 2]


def test_a_task_travels_to_the_workers():
    task = pickle.loads(pickle.dumps(ToyTask(plain_net, samples=17)))
    assert (task.samples, type(task.build_model())) == (17, torch.nn.Sequential)


def test_an_incomplete_task_cannot_be_made():
    class Half(TrainingTask):
        global_batch_size = 2

    with pytest.raises(TypeError, match="build_model"):
        Half()  # type: ignore[abstract]


def test_a_model_is_sharded_by_its_blocks():
    layer = torch.nn.TransformerEncoderLayer(4, 1, 4)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), encoder, torch.nn.ReLU())
    assert [*_blocks(model)] == [model[0], *encoder.layers]
    member = torch.nn.Linear(1, 1)
    nested = torch.nn.ModuleDict({"a": torch.nn.ModuleList([member])})
    assert [*_blocks(nested)] == [member]
    assert [*_blocks(torch.nn.Linear(1, 1))] == []
