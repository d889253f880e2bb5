"""Whole runs whose training data are streams: as with the same batches by index, to the bit."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from torch.utils.data import DataLoader, IterableDataset

from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSTrainer,
    Checkpoints,
    GaussianProcess,
    ScheduleFreeAverage,
    Stages,
    Warmup,
)
from ray_autolrs.cluster.event_log import parse_events
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.epoch_order import epoch_order
from tests.cluster.interruption import copied_at_each_answer, written_at_once
from tests.digits_task import DigitsTask

STEPS = 130


class ReadyTask(DigitsTask):
    """Ready micro-batches, those of the map-style set; each is noted down when it is given."""

    def __init__(self, kind: str = "plain") -> None:
        self.kind = kind
        self.read: list[int] = []
        self.opened = 0

    def train_dataset(self) -> Any:
        self.opened += 1
        return {"plain": Ready, "stateful": Stateful, "samples": Samples}[self.kind](self)

    def val_dataset(self) -> Any:
        return DataLoader(super().val_dataset(), batch_size=64)


class Ready:
    def __init__(self, task: ReadyTask) -> None:
        self.task = task
        self.batches = StepBatches(DigitsTask(), micro_batch_size=16, seed=0)
        self.first = 0

    def __iter__(self) -> Iterator[Any]:
        for place in range(self.first, 2 * STEPS):
            self.task.read.append(place)
            self.first = place + 1
            yield self.batches.micro(*divmod(place, 2))


class Stateful(Ready):
    def state_dict(self) -> dict[str, int]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["first"]


class Samples(IterableDataset[Any]):
    def __init__(self, task: ReadyTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[Any]:
        dataset = DigitsTask().train_dataset()
        for index in epoch_order(400, 0, 0, 32 * STEPS):
            self.task.read.append(index)
            yield dataset[index]


def fit(
    path: Path, task: DigitsTask, lr: Any = (1e-3, 0.5), checkpoints: Checkpoints | None = None
) -> Any:
    config = AutoLRSConfig.paper(
        total_steps=STEPS,
        lr=lr,
        warmup=Warmup(steps=10, lr=math.sqrt(1e-3 * 0.5)),
        stages=Stages(first_steps=40, longest_steps=80),
        search=GaussianProcess(probes=3, probe_fraction=0.25, validation_evals=8),
        averaging=ScheduleFreeAverage(calibration_batches=3),
        checkpoints=checkpoints or Checkpoints(),
    )
    return AutoLRSTrainer(
        task,
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(path)),
    ).fit()


def events_of(result: Any) -> list[dict[str, Any]]:
    """Return what was trained; of what a continued run has trained again, the last."""
    events = parse_events((Path(result.path) / "events.jsonl").read_bytes())
    trained = [event for event in events if event["kind"] in ("probe", "apply")]
    timed = {"time", "wall_s", "reused_steps"}
    last = {
        (event["kind"], event["stage"], event.get("index")): {
            key: value for key, value in event.items() if key not in timed
        }
        for event in trained
    }
    return [*last.values()]


@pytest.fixture(scope="module")
def by_index(tmp_path_factory: pytest.TempPathFactory) -> Any:
    class Validated(DigitsTask):
        def val_dataset(self) -> Any:
            return DataLoader(super().val_dataset(), batch_size=64)

    return fit(tmp_path_factory.mktemp("index"), Validated())


@pytest.mark.parametrize("kind", ["plain", "stateful", "samples"])
def test_a_stream_trains_as_the_same_batches_by_index_and_is_read_once(
    kind: str, by_index: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ray_autolrs")
    task = ReadyTask(kind)
    result = fit(tmp_path, task)
    assert events_of(result) == events_of(by_index)
    assert task.opened == 1
    if kind == "samples":
        assert task.read == epoch_order(400, 0, 0, 32 * STEPS)
    else:
        assert task.read == list(range(2 * STEPS))
    # 20 micro-batches of 16 samples, of 64 float64 and a label, for the first stage's probes.
    assert "20 batches that probes have read and 0.166 MB of host memory hold" in caplog.text


class Breaks(ReadyTask):
    """Its loss raises after a number of forward passes in training."""

    def __init__(self, kind: str, passes: int) -> None:
        super().__init__(kind)
        self.passes = passes

    def loss(self, model: Any, batch: Any) -> Any:
        self.passes -= torch.is_grad_enabled()
        if self.passes < 0:
            raise OSError("the power is gone")
        return super().loss(model, batch)


@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_a_run_that_broke_within_a_stage_reads_on_from_there(
    kind: str, by_index: Any, tmp_path: Path
) -> None:
    """In the first stage, after 10 steps of warm-up, and 30 of probes."""
    with written_at_once(), pytest.raises(OSError, match="the power is gone"):
        fit(tmp_path, Breaks(kind, passes=2 * 67), checkpoints=Checkpoints(every_steps=4))
    resumed = fit(tmp_path, ReadyTask(kind))
    assert [event["done_steps"] for event in resumed.events if "done_steps" in event] == [30]
    assert events_of(resumed) == events_of(by_index)
    model, wanted = (
        torch.load(Path(result.checkpoint.path) / "model.pt") for result in (resumed, by_index)
    )
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_a_run_that_was_killed_reads_on_and_ends_the_same(
    kind: str, by_index: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ray_autolrs")
    with copied_at_each_answer(tmp_path / "run", tmp_path / "copies"):
        fit(tmp_path, task := ReadyTask(kind))
    copies = sorted((tmp_path / "copies").iterdir(), key=lambda path: int(path.name))
    for copy in (copies[len(copies) // 2], copies[-2]):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(copy / "run", tmp_path / "run")
        task = ReadyTask(kind)
        resumed = fit(tmp_path, task)
        assert events_of(resumed) == events_of(by_index)
        models = [
            torch.load(Path(result.checkpoint.path) / "model.pt") for result in (resumed, by_index)
        ]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])
        assert task.read[-1] == 2 * STEPS - 1
    # The last copy goes on from step 50, and 11 steps before it are kept in sight.
    assert task.read[0] == (2 * (50 - 11) if kind == "stateful" else 0)
    assert ("its state_dict" if kind == "stateful" else "as it has no state_dict") in caplog.text
