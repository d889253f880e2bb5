"""find_lr beside a run of the trainer, and inside a training function of Ray Train's own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, ScheduleFreeAverage
from tests.digits_task import DigitsTask
from tests.training.live import Loop


@pytest.mark.parametrize("averaging", [None, ScheduleFreeAverage()], ids=["plain", "averaged"])
def test_it_finds_the_lr_that_the_trainer_finds(averaging, tmp_path):
    config = AutoLRSConfig(total_steps=60, lr=0.1, averaging=averaging)
    run = AutoLRSTrainer(
        DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(tmp_path)),
    ).fit()
    found = Loop().find(total_steps=60, averaging=averaging)
    assert found.lr == run.schedule.segments[0].peak_lr
    probes = run.history[run.history["kind"] == "probe"]
    assert [probe.lr for probe in found.probes] == probes[probes["stage"] == 1]["peak_lr"].tolist()


def train_loop(config: dict[str, Any]) -> None:
    """A user's own, with nothing of ours but the call."""
    loop = Loop(DigitsTask(), rank=ray.train.get_context().get_world_rank(), workers=2)
    loop.model = ray.train.torch.prepare_model(loop.model)
    found = loop.find()
    Path(config["folder"], f"rank{loop.rank}.json").write_text(json.dumps(found.lr))


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """Ray Train's trainer keeps SIGINT to itself, and with it its actors."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "_own_signals")
def test_inside_a_training_function_of_ray_train(tmp_path):
    TorchTrainer(
        train_loop,
        train_loop_config={"folder": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="own_loop", storage_path=str(tmp_path)),
    ).fit()
    lrs = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert lrs[0] == lrs[1] == Loop(workers=1).find().lr
