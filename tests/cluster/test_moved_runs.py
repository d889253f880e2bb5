"""Runs that go on elsewhere than they began, and the workers' environment: on a real Ray."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Lanes
from ray_autolrs.cluster.conductor import HEALTH_CHECK_VARIABLE
from tests.cluster.tiny_runs import TinyTask, assert_same_run, step_of, tiny_trainer

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WAIT_S = 60.0
"""Longest wait for an actor: on busy cores it starts in a minute."""


class BreaksThere(TinyTask):
    """Its loss raises in a training step, wherever it is taken, unless ``marker`` is there."""

    def __init__(self, marker: Path, breaks_after: int) -> None:
        super().__init__(breaks_after)
        self.marker = marker

    def loss(self, model, batch):
        if self.marker.exists():
            self.breaks_after = None
        return super().loss(model, batch)


def trainer(storage: Path, task: TinyTask, num_workers: int, **parts) -> AutoLRSTrainer:
    values: dict[str, Any] = {"total_steps": 100, "lr": (1e-3, 0.3)}
    values["lanes"] = Lanes(kind="sequential")
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(**(values | parts)),
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(name="run", storage_path=str(storage)),
    )


@pytest.mark.parametrize("order", [(1, 0), (0, 1)], ids=["from Ray", "to Ray"])
def test_a_run_that_moves_ends_as_if_it_had_stayed(ray_cluster, tmp_path, order):
    undisturbed = tiny_trainer(tmp_path / "undisturbed").fit()
    marker = tmp_path / "mended"
    first, second = order
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Exception, match="the power is gone"):
        trainer(tmp_path, BreaksThere(marker, breaks_after=130), first).fit()
    marker.touch()
    result = trainer(tmp_path, BreaksThere(marker, breaks_after=130), second).fit()
    assert step_of(result.checkpoint.path) == 100
    ready = [event["step"] for event in result.events if event["kind"] == "ready"]
    assert ready[0] == 0 < ready[1]
    assert_same_run(result, undisturbed)
    assert HEALTH_CHECK_VARIABLE not in os.environ
    assert signal.getsignal(signal.SIGINT) == before


class FromEnvironment(TinyTask):
    """Its data depend on a variable; each process that builds them leaves a mark.

    Training waits until the range test, a worker and a probe actor have done so.
    """

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self.marks = marks

    def train_dataset(self) -> TensorDataset:
        found = os.environ.get("SAMPLES", "missing")
        (self.marks / f"{found}-{os.getpid()}").touch()
        x = torch.randn(int(found), 4, generator=torch.Generator().manual_seed(1))
        return TensorDataset(x, x[:, :2])

    def val_dataset(self) -> TensorDataset:
        x = torch.ones(8, 4)
        return TensorDataset(x, x[:, :2])

    def loss(self, model, batch):
        # An actor is started after the worker's first look at the loss.
        waits = ray.get_runtime_context().get_actor_id() is not None and self.steps > 0
        deadline_s = time.monotonic() + WAIT_S
        while waits and len([*self.marks.iterdir()]) < 3:
            assert time.monotonic() < deadline_s, "no probe actor has built the task"
            time.sleep(0.1)
        return super().loss(model, batch)


def test_range_test_and_probe_actors_have_the_workers_environment(ray_cluster, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    lanes = Lanes(kind="actors", actors=1)
    run = trainer(tmp_path, FromEnvironment(marks), 1, lr=None, total_steps=30, lanes=lanes)
    environment = {"env_vars": {"SAMPLES": "64"}}
    vars(run.run_config)["worker_runtime_env"] = environment
    run.fit()
    names = [path.name for path in marks.iterdir()]
    assert len(names) >= 3
    assert all(name.startswith("64-") for name in names)
