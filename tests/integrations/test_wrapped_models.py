"""Models whose forward pass takes *args and **kwargs: compiled, with adapters, in one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.integrations.transformers import TransformersTask
from tests.integrations.test_transformers import Sentences, accuracy, arguments, classifier
from tests.training.toy import make_worker, train


class Adapted(nn.Module):
    """As peft's models without a task type are: it hides what its base takes."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.ModuleDict({"model": base})

    def get_base_model(self) -> nn.Module:
        return self.base_model["model"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_base_model()(*args, **kwargs)


class Wrapped(nn.Module):
    """Has its model as ``module``, as data-parallel wrappers do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def compiled() -> Any:
    return torch.compile(classifier(), backend="eager")


def adapted() -> nn.Module:
    return Adapted(classifier())


def wrapped() -> nn.Module:
    return Wrapped(classifier())


def compiled_and_adapted() -> Any:
    return torch.compile(Adapted(classifier()), backend="eager")


@pytest.mark.parametrize("model_init", [compiled, adapted, wrapped, compiled_and_adapted])
def test_a_wrapped_model_trains_as_the_bare_one(tmp_path: Any, model_init: Any):
    data, found = Sentences(32), []
    for init in (classifier, model_init):
        task = TransformersTask(init, arguments(tmp_path), data, data, None, accuracy)
        worker = make_worker(task)
        worker.check_first_loss()
        losses = train(worker, 0, 3, lr=1e-3)
        means = worker.evaluation.run(worker.replica, worker.group, with_metrics=True)
        found.append((losses, means))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-12)
    assert set(found[1][1]) == {"loss", "accuracy"}


class Opaque(nn.Module):
    """It tells neither what it takes nor what it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, **kwargs: Any) -> Any:
        assert set(kwargs) == {"input_ids", "labels"}, kwargs
        return self.inner(**kwargs)


def test_columns_stay_where_a_model_does_not_tell_what_it_takes(tmp_path: Any):
    data: Any = [{"input_ids": [1 + n % 2, 3, 4], "labels": n % 2} for n in range(16)]
    worker = make_worker(TransformersTask(Opaque, arguments(tmp_path), data, data))
    worker.check_first_loss()
    assert len(train(worker, 0, 2, lr=1e-3)) == 2
