from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.evaluation import Evaluation, validation_batches
from ray_autolrs.training.replica import Replica
from tests.training.toy import CPU, Augmented, ToyTask, assert_same, points, state_of


def replica_of(task: ToyTask) -> Replica:
    replica = Replica(task, Solo(), CPU, seed=0)
    replica.module.train()
    replica.module(points(16)[:][0])  # running statistics of their own
    return replica


@pytest.mark.parametrize("batch_size", [1, 4, 8, 21, 100])
def test_uneven_batches_give_the_mean_over_all_samples(batch_size: int):
    task = ToyTask()
    replica = replica_of(task)
    dataset = task.val_dataset()
    means = Evaluation(task, validation_batches(task, dataset, batch_size)).run(
        replica, Solo(), with_metrics=True
    )
    replica.module.eval()
    with torch.no_grad():
        x, y = points(task.val_samples)[:]
        logits = replica.module(x)
    assert list(means) == ["loss", "accuracy"]
    assert means["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, y).item(), rel=1e-14, abs=0
    )
    correct = (logits.argmax(dim=1) == y).double().mean().item()
    assert means["accuracy"] == pytest.approx(correct, rel=1e-14)


def test_a_subset_without_metrics():
    task = ToyTask()
    replica = replica_of(task)
    some = Evaluation(task, validation_batches(task, task.val_dataset(), 4, [1, 5, 20])).run(
        replica, Solo(), with_metrics=False
    )
    x, y = points(task.val_samples)[[1, 5, 20]]
    replica.module.eval()
    assert list(some) == ["loss"]
    expected = nn.functional.cross_entropy(replica.module(x), y).item()
    assert some["loss"] == pytest.approx(expected, rel=1e-14)


def test_an_evaluation_changes_nothing_that_training_sees():
    task = ToyTask()
    replica = replica_of(task)
    before = state_of(replica)
    modes: list[bool] = []
    replica.module.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    Evaluation(task, validation_batches(task, task.val_dataset(), 4)).run(
        replica, Solo(), with_metrics=False
    )
    assert modes == [False] * 6
    after = state_of(replica)
    assert_same({**after, "random": None}, {**before, "random": None})


class NoisyTask(ToyTask):
    """Masks of a masked language model, and a model that samples, in small."""

    def val_dataset(self) -> Dataset[Any]:
        return Augmented(self.val_samples)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * (1 + torch.rand(()))


class Half:
    """Rank ``rank`` of two; keeps what it would have sent."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.sent: list[Tensor] = []

    def sum_(self, tensor: Tensor) -> None:
        self.sent.append(tensor.clone())

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        return

    def broadcast_object(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def mesh(self) -> None:
        return None


def test_random_validation_data_is_the_same_each_time_and_for_any_number_of_workers():
    task = NoisyTask()
    replica = replica_of(task)
    evaluation = Evaluation(task, validation_batches(task, task.val_dataset(), 4, seed=3), seed=3)
    first = evaluation.run(replica, Solo(), with_metrics=False)
    torch.rand(5)
    assert evaluation.run(replica, Solo(), with_metrics=False) == first
    other = Evaluation(task, validation_batches(task, task.val_dataset(), 4, seed=4), seed=4)
    assert other.run(replica, Solo(), with_metrics=False) != first
    halves = [Half(0), Half(1)]
    for half in halves:
        evaluation.run(replica, half, with_metrics=False)
    table = (halves[0].sent[0] + halves[1].sent[0])[:, 0]
    weights = torch.tensor([4, 4, 4, 4, 4, 1], dtype=torch.float64)
    assert (weights @ table / weights.sum()).item() == first["loss"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks")
def test_loader_processes_change_nothing():
    task, loaded = NoisyTask(), NoisyTask(loader_workers=2)
    replica = replica_of(task)
    assert Evaluation(loaded, validation_batches(loaded, loaded.val_dataset(), 4)).run(
        replica, Solo(), with_metrics=True
    ) == Evaluation(task, validation_batches(task, task.val_dataset(), 4)).run(
        replica, Solo(), with_metrics=True
    )


@pytest.mark.parametrize("indices", [None, []])
def test_an_empty_validation_set_is_refused(indices: list[int] | None):
    with pytest.raises(ValueError, match="validation set is empty"):
        validation_batches(ToyTask(), points(0 if indices is None else 4), 4, indices)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": torch.zeros(())}, "ToyTask.metrics returned 'loss'"),
        ({"hits": torch.zeros(4)}, r"ToyTask.metrics\['hits'\] has shape \(4,\)"),
    ],
)
def test_metrics_that_cannot_be_averaged_are_refused(metrics: dict[str, Tensor], message: str):
    task = ToyTask()
    task.metrics = lambda model, batch: metrics  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        Evaluation(task, validation_batches(task, points(8), 4)).run(
            replica_of(task), Solo(), with_metrics=True
        )
