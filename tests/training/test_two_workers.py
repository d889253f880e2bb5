"""Workers in processes of their own, over gloo, against one worker.

The processes are started once and run every check; what they found comes back in a file.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import start_processes

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.training.collectives import Group, ProcessGroup, Solo
from ray_autolrs.training.worker import Worker
from tests.training.toy import (
    CPU,
    ToyTask,
    assert_same,
    full_net,
    plain_net,
    small_config,
    state_of,
)

TIMEOUT_S = 60


class SingleTask(ToyTask):
    """In float32, where the order of a sum shows."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, [batch[0].float(), batch[1]])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return dict(super().metrics(model, [batch[0].float(), batch[1]]))


def single_net() -> nn.Module:
    return full_net().float()


TASKS = {
    "single": SingleTask(single_net, micro_batch_size=8),
    "whole": ToyTask(full_net, micro_batch_size=8, augment=True),
    "accumulated": ToyTask(full_net, micro_batch_size=4, augment=True, max_grad_norm=0.5),
    "few_validation_batches": ToyTask(plain_net, micro_batch_size=8, val_samples=5),
}


@dataclass
class Found:
    """What one worker saw."""

    probe: ProbeDone
    again: ProbeDone
    validation: ProbeDone
    alone: ProbeDone
    alone_validation: ProbeDone
    apply: ApplyDone
    resumed: ApplyDone
    buffers_differed: bool
    state: dict[str, Any]
    evaluation: dict[str, float]


def silent(done: int, loss: float) -> None:
    return


def explore(task: ToyTask, group: Group) -> Found:
    config = small_config(validation_samples=10)
    worker = Worker(task, config, group, CPU)
    worker.take_snapshot(0)
    worker.check_first_loss()
    probe = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.2)), silent)
    again = worker.run_probe(Probe(1, 1, Segment(0, 11, 0.2)), silent)
    validation = worker.run_probe(Probe(1, 2, Segment(0, 31, 0.2), evals=16), silent)
    if group.rank == 0:  # Alone means that the others need not take part.
        worker.run_probe(Probe(1, 3, Segment(0, 5, 0.4)), silent, alone=True)
    alone = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.2)), silent, alone=True)
    alone_validation = worker.run_probe(
        Probe(1, 2, Segment(0, 31, 0.2), evals=16), silent, alone=True
    )
    apply = worker.run_apply(Apply(1, Segment(0, 39, 0.2)), silent)
    # Evaluations share buffers, as snapshots do: let them drift apart again first.
    batch = worker.batches.micro(40, group.rank)
    worker.replica.first_loss(40, group.rank, batch)
    drifted = [buffer.clone() for buffer in worker.replica.module.buffers()]
    worker.take_snapshot(40)
    differed = any(
        not torch.equal(one, other)
        for one, other in zip(drifted, worker.replica.module.buffers(), strict=True)
    )
    state = state_of(worker.replica)
    evaluation = worker.evaluation.run(worker.replica, group, with_metrics=True)

    fresh = Worker(task, config, group, CPU)
    fresh.snapshot.load_state_dict(state | {"step": 40})
    resumed = fresh.run_apply(Apply(2, Segment(40, 49, 0.1)), silent)
    expected = worker.run_apply(Apply(2, Segment(40, 49, 0.1)), silent)
    assert resumed.losses == expected.losses
    return Found(
        probe,
        again,
        validation,
        alone,
        alone_validation,
        apply,
        resumed,
        differed,
        state,
        evaluation,
    )


def process(
    rank: int, function: Callable[[Group], dict[str, Any]], world: int, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    torch.save(function(ProcessGroup(CPU)), Path(folder) / f"rank{rank}.pt")
    dist.barrier()  # gloo aborts a worker whose peer has gone
    dist.destroy_process_group()


def find_all(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {name: explore(task, group) for name, task in TASKS.items()}
    found["shared"] = check_collectives(group)
    found["refusal"] = refused_on_every_worker(group)
    return found


def check_collectives(group: Group) -> dict[str, Any]:
    mine = float(group.rank + 1)
    tensors = [torch.full((2, 3), mine).T, torch.tensor(int(mine)), torch.tensor([mine > 1])]
    strided = torch.full((4,), mine)[::2]
    group.broadcast_([*tensors, strided])
    total = torch.tensor([mine])
    group.sum_(total)
    return {"tensors": [*tensors, strided], "sum": total, "object": group.broadcast_object(mine)}


class NanOnRankOne(ToyTask):
    """Its second micro-batch has a loss that is not finite."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, batch) + (torch.nan if dist.get_rank() == 1 else 0.0)


def refused_on_every_worker(group: Group) -> str:
    worker = Worker(NanOnRankOne(full_net, micro_batch_size=8), small_config(), group, CPU)
    worker.take_snapshot(0)
    try:
        worker.check_first_loss()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def start_workers(function: Callable[..., dict[str, Any]], world: int, folder: Path) -> Any:
    """Run ``function(group)`` in ``world`` processes, and return each one's result."""
    running = start_processes(
        process, args=(function, world, str(folder)), nprocs=world, join=False, start_method="spawn"
    )
    assert running is not None
    deadline_s = time.monotonic() + 2 * TIMEOUT_S
    try:
        # False means that one has ended and others run; an exception in one is raised here.
        while not running.join(timeout=1.0):
            assert time.monotonic() < deadline_s, "the workers did not end in time"
    finally:
        for child in running.processes:
            if child.is_alive():
                child.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = start_workers(find_all, 2, tmp_path_factory.mktemp("gloo"))
    return found


@pytest.fixture(scope="module")
def solo() -> dict[str, Found]:
    return {name: explore(task, Solo()) for name, task in TASKS.items()}


@pytest.fixture(params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_workers_tell_the_same(ranks: list[dict[str, Any]], name: str):
    one, other = (found[name] for found in ranks)
    assert one.probe.losses == other.probe.losses
    assert one.validation.losses == other.validation.losses
    assert one.apply.losses == other.apply.losses
    assert one.apply.evaluations == other.apply.evaluations
    assert one.evaluation == other.evaluation


def test_two_workers_give_the_loss_curve_of_one(
    ranks: list[dict[str, Any]], solo: dict[str, Found], name: str
):
    two, one = ranks[0][name], solo[name]
    close = 1e-4 if name == "single" else 1e-10
    for kind in ("probe", "validation", "apply", "resumed"):
        expected = getattr(one, kind).losses
        assert len(expected) > 9
        assert getattr(two, kind).losses == pytest.approx(expected, rel=0, abs=close), kind
    assert two.evaluation == pytest.approx(one.evaluation, rel=0, abs=close)
    assert [entry[:2] for entry in two.apply.evaluations] == [
        entry[:2] for entry in one.apply.evaluations
    ]


def test_a_probe_of_two_workers_gives_the_same_bits_again(ranks: list[dict[str, Any]], name: str):
    found = ranks[0][name]
    assert found.probe.losses == found.again.losses == found.apply.losses[:12]


def test_a_worker_alone_gives_the_curve_of_both(ranks: list[dict[str, Any]], name: str):
    for rank in ranks:
        found = rank[name]
        if TASKS[name].micro_batch_size == 8:  # one micro-batch for each worker
            assert found.alone.losses == found.probe.losses
            assert found.alone_validation.losses == found.validation.losses
        assert found.alone.losses == pytest.approx(found.probe.losses, rel=0, abs=1e-12)
        assert found.alone_validation.losses == pytest.approx(
            found.validation.losses, rel=0, abs=1e-12
        )


def test_a_snapshot_holds_the_same_on_every_worker(ranks: list[dict[str, Any]], name: str):
    one, other = (found[name] for found in ranks)
    for part in ("tensors", "optimizer", "scaler"):
        assert_same(one.state[part], other.state[part])
    # The buffers had drifted apart before, where there are any.
    assert not one.buffers_differed
    assert other.buffers_differed == any("running_mean" in key for key in one.state["tensors"])


def test_collectives(ranks: list[dict[str, Any]]):
    for found in ranks:
        shared = found["shared"]
        expected = [torch.ones(3, 2), torch.tensor(1), torch.tensor([False]), torch.ones(2)]
        assert_same(shared["tensors"], expected)
        assert shared["sum"].item() == 3.0
        assert shared["object"] == 1.0


def test_a_bad_loss_on_one_worker_is_refused_on_all(ranks: list[dict[str, Any]]):
    for found in ranks:
        assert found["refusal"].startswith("NanOnRankOne.loss is nan at step 0")


def wide_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 200), nn.Linear(200, 3)
    )


def repeat_a_probe(group: Group) -> dict[str, Any]:
    task = SingleTask(wide_net, global_batch_size=15)
    worker = Worker(task, small_config(), group, CPU)
    worker.take_snapshot(0)
    probe = Probe(1, 0, Segment(0, 11, 0.2))
    return {"losses": [worker.run_probe(probe, silent).losses for _ in range(2)]}


def test_the_first_probe_of_three_workers_adds_gradients_in_the_order_of_the_next(tmp_path: Path):
    # DDP sorts its buckets after its first backward pass, and gloo's sum of three or more
    # depends on the place in the bucket. With two workers there is one order only.
    for found in start_workers(repeat_a_probe, 3, tmp_path):
        first, second = found["losses"]
        assert first == second
