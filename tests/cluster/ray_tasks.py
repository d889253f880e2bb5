"""Tasks that disturb their runs, or wait for it.

Each worker imports the module of its task: this one brings no pytest along.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import ray
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.cluster.tiny_runs import TinyTask
from tests.digits_task import DigitsTask

WAIT_S = 60.0
"""Longest wait for an actor: on busy cores it starts in a minute."""


class Waits(DigitsTask):
    """Each forward pass waits, as for an accelerator, until a file is there.

    Actors start in 5 s on idle cores and in a minute on busy ones. The file tells that what a
    test wants to see in the middle of a run has happened.
    """

    def __init__(self, until: Path) -> None:
        self.until = until

    def loss(self, model, batch):
        if model.training and not self.until.exists():
            time.sleep(0.15)
        return super().loss(model, batch)


class NoRoom(DigitsTask):
    """Cannot be built, as where the memory of an accelerator is full."""

    def build_model(self) -> nn.Module:
        raise MemoryError("no room for a model")


class KilledOnce(DigitsTask):
    """Its first process to reach a number of forward passes is killed, as by a lost machine."""

    def __init__(self, marker: Path, passes: int) -> None:
        self.marker = marker
        self.passes = passes

    def loss(self, model, batch):
        self.passes -= 1
        if self.passes == 0 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


class RefusesBatch(TinyTask):
    """Its loss refuses a batch after some training steps, as a user's own check may."""

    def loss(self, model, batch):
        try:
            return super().loss(model, batch)
        except OSError as error:
            raise ValueError("this batch is refused") from error


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
