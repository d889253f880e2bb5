"""find_lr inside a training function of Ray Train's own, and Ray Data's batches as a stream."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.data
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, TrainingTask
from tests.digits_task import DigitsTask, read_digits
from tests.training.live import Loop, everything
from tests.training.toy import assert_same

ROWS = 400
STEPS = 60


def rows() -> Any:
    """Return the training digits as a dataset of Ray Data, numbered, in their order."""
    digits = read_digits()[:ROWS]
    items = [
        {"pixels": row[:-1] / 16, "label": int(row[-1]), "number": number}
        for number, row in enumerate(digits)
    ]
    return ray.data.from_items(items, override_num_blocks=1)


def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Take batches of Ray Data, and those of validation."""
    pair = [batch["pixels"], batch["label"]] if isinstance(batch, dict) else batch
    return DigitsTask().loss(model, pair)


def train_loop(config: dict[str, Any]) -> None:
    """A user's own, with nothing of ours but the calls."""
    told: dict[str, Any] = {}
    rank = ray.train.get_context().get_world_rank()
    loop = Loop(DigitsTask(), rank=rank, workers=2)
    loop.model = ray.train.torch.prepare_model(loop.model)
    before = everything(loop.model, loop.optimizer)
    told["lr"] = loop.find(total_steps=STEPS).lr
    shard = ray.train.get_dataset_shard("train").iter_torch_batches(batch_size=16)
    found = loop.find(loss=loss, train_batches=shard, accumulation=1)
    assert_same(before, everything(loop.model, loop.optimizer))
    told["shard_lr"] = found.lr
    told["read"] = [batch["number"].tolist() for batch in found.batches_read]
    # The shard's first two epochs; the search has read into the second.
    told["given"] = [batch["number"].tolist() for batch in itertools.islice(found.batches, 26)]
    Path(config["folder"], f"rank{rank}.json").write_text(json.dumps(told))


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """Ray Train's trainer keeps SIGINT to itself, and with it its actors."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def lr_of_a_run(task: TrainingTask, path: Path) -> Any:
    """Return the LR that the trainer finds, and each probe's."""
    done = AutoLRSTrainer(
        task,
        AutoLRSConfig(total_steps=STEPS, lr=0.1, averaging=None),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=type(task).__name__, storage_path=str(path)),
    ).fit()
    probes = done.history[done.history["kind"] == "probe"]
    return done.schedule.segments[0].peak_lr, probes["loss"].tolist()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "_own_signals")
def test_inside_a_training_function_of_ray_train(tmp_path):
    TorchTrainer(
        train_loop,
        train_loop_config={"folder": str(tmp_path)},
        datasets={"train": rows()},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="own_loop", storage_path=str(tmp_path)),
    ).fit()
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert one["lr"] == other["lr"] == lr_of_a_run(DigitsTask(), tmp_path)[0]

    # Of the shards no row is lost, and none is given twice in an epoch.
    for epoch in (slice(0, 13), slice(13, 26)):
        numbers = [
            number for each in (one, other) for batch in each["given"][epoch] for number in batch
        ]
        assert sorted(numbers) == list(range(ROWS))
    # One process finds the same with the batches of both.
    digits = torch.tensor(read_digits()[:ROWS])
    micros = [batch for pair in zip(one["read"], other["read"], strict=True) for batch in pair]
    batches = [[digits[batch, :-1] / 16, digits[batch, -1].long()] for batch in micros]
    assert len(micros) == 2 * 19
    alone = Loop().find(train_batches=batches)
    assert one["shard_lr"] == other["shard_lr"] == alone.lr


class OfRayData(DigitsTask):
    def train_dataset(self) -> Any:
        return rows()

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return loss(model, batch)


class OfReadyBatches(DigitsTask):
    def train_dataset(self) -> Any:
        return DataLoader(super().train_dataset(), batch_size=16)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_task_with_ray_data_trains_as_with_ready_batches(tmp_path):
    assert lr_of_a_run(OfRayData(), tmp_path) == lr_of_a_run(OfReadyBatches(), tmp_path)
