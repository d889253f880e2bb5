"""Two workers, each with a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.worker import Worker
from tests.training.processes import start_workers
from tests.training.toy import ToyTask, assert_same, make_worker, plain_net, silent, values


class Share:
    """What a rank of two trains on, with a state."""

    def __init__(self, bad_step: int | None) -> None:
        self.bad_step = bad_step
        self.batches = StepBatches(ToyTask(), micro_batch_size=8, seed=0)
        self.step = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.step += 1
            x, y = self.batches.micro(self.step - 1, dist.get_rank())
            is_bad = self.step - 1 == self.bad_step and dist.get_rank() == 1
            yield [x * torch.nan if is_bad else x, y]

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class SharedTask(ToyTask):
    bad_step: int | None = None
    """Step at which the share of rank 1 holds an input that is nan."""

    def train_dataset(self) -> Any:
        return Share(self.bad_step)


def trained(worker: Worker) -> dict[str, Any]:
    probe = worker.run_probe(Probe(1, 0, Segment(0, 4, 0.1)), silent)
    apply = worker.run_apply(Apply(1, Segment(0, 29, 0.05)), silent)
    return {
        "probe": probe.training_losses,
        "apply": apply.training_losses,
        "weights": values(worker.replica),
    }


def ranks(group: Group) -> dict[str, Any]:
    worker = make_worker(SharedTask(plain_net), group=group)
    result = trained(worker)
    positions = group.gather(worker.engine.batches.position(30))
    later = make_worker(SharedTask(plain_net), group=group)
    later.engine.batches.go_on_from(positions[group.rank], 30)
    micros = later.engine.together.micros
    [[batch]] = [*later.engine.batches.stream(30, 1, micros)]
    bad = make_worker(SharedTask(plain_net, bad_step=13), group=group)
    try:
        bad.run_apply(Apply(1, Segment(0, 29, 0.05)), silent)
    except ValueError as error:
        result["told"] = str(error)
    return result | {"places": [each["place"] for each in positions], "next": batch}


def test_two_workers_with_shares_of_a_stream_train_as_one_by_index(tmp_path: Path) -> None:
    expected = trained(make_worker(ToyTask(plain_net, micro_batch_size=8)))
    by_index = StepBatches(ToyTask(), micro_batch_size=8, seed=0)
    for rank, found in enumerate(start_workers(ranks, 2, tmp_path)):
        assert found["probe"] == pytest.approx(expected["probe"], rel=1e-12)
        assert found["apply"] == pytest.approx(expected["apply"], rel=1e-12)
        for one, other in zip(found["weights"], expected["weights"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert found["places"] == [30 - 11] * 2
        assert_same(found["next"], by_index.micro(30, rank))
        bad = "input batch[0] holds nan; micro-batch 1, read by worker 1."
        assert found["told"].startswith("step 13 cannot be trained on")
        assert bad in found["told"]
