"""Two workers over gloo, against one worker. They are started once and run every check."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.epoch_order import epoch_order
from tests.training.broken_data import BAD_STEP, Broken, Ignoring, Leaner
from tests.training.processes import start_workers
from tests.training.toy import (
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    plain_net,
    silent,
    state_of,
)


class SingleTask(ToyTask):
    """In float32, where the order of a sum shows."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, [batch[0].float(), batch[1]])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return dict(super().metrics(model, [batch[0].float(), batch[1]]))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


def single_net() -> nn.Module:
    return full_net().float()


class Branched(nn.Module):
    """With a head that no batch uses, and one that a batch uses if its first number is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.unused, self.sometimes = plain_net(), plain_net(), plain_net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x) + (self.sometimes(x) if x[0, 0] > 0 else 0)
        return out


class Encoder(nn.Module):
    """Its loss goes around its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x).tanh()
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encode(x)


class MethodTask(ToyTask):
    """Calls a method of the model, past a wrapper if there is one, and a part of the model."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        bare: Any = getattr(model, "module", model)
        penalty: Any = bare.net[0].weight.square().mean()
        return nn.functional.cross_entropy(bare.encode(batch[0]), batch[1]) + 0.01 * penalty


TASKS = {
    "single": SingleTask(single_net, micro_batch_size=8),
    "whole": ToyTask(full_net, micro_batch_size=8, augment=True),
    "accumulated": ToyTask(full_net, micro_batch_size=4, augment=True, max_grad_norm=0.5),
    "branched": ToyTask(Branched, adam, micro_batch_size=8),
    "methods": MethodTask(Encoder, micro_batch_size=8),
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


def explore(task: ToyTask, group: Group) -> Found:
    worker = make_worker(task, group=group, probe_samples=10)
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
    batch = worker.engine.batches.micro(40, group.rank)
    worker.replica.first_loss(40, group.rank, batch)
    drifted = [buffer.clone() for buffer in worker.replica.module.buffers()]
    worker.take_snapshot(40)
    differed = any(
        not torch.equal(one, other)
        for one, other in zip(drifted, worker.replica.module.buffers(), strict=True)
    )
    state = state_of(worker.replica)
    evaluation = worker.evaluation.run(worker.replica, group, with_metrics=True)

    fresh = make_worker(task, group=group, probe_samples=10)
    fresh.snapshot.load_state_dict(state | {"step": 40})
    resumed = fresh.run_apply(Apply(2, Segment(40, 49, 0.1)), silent)
    expected = worker.run_apply(Apply(2, Segment(40, 49, 0.1)), silent)
    assert resumed.training_losses == expected.training_losses
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


def find_all(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {name: explore(task, group) for name, task in TASKS.items()}
    found["shared"] = check_collectives(group)
    found["refusal"] = refused_on_every_worker(group)
    found["bad"] = bad_batch_of_rank_one(group)
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
    worker = make_worker(NanOnRankOne(full_net, micro_batch_size=8), group=group)
    try:
        worker.check_first_loss()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def bad_batch_of_rank_one(group: Group) -> dict[str, Any]:
    apply = Apply(1, Segment(0, 29, 0.05))
    worker = make_worker(Broken(plain_net, micro_batch_size=8, bad_place=8), group=group)
    told = "nothing was raised"
    try:
        worker.run_apply(apply, silent)
    except ValueError as error:
        told = str(error)
    worker = make_worker(Leaner(plain_net, micro_batch_size=8, bad_place=8), group=group)
    done = worker.run_apply(apply, silent)
    found = {"told": told, "losses": done.training_losses, "skipped": done.skipped_steps}
    worker = make_worker(Ignoring(plain_net, micro_batch_size=8, ignored=8), group=group)
    found["uncounted"] = worker.run_apply(apply, silent).training_losses
    return found


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
    assert one.probe.training_losses == other.probe.training_losses
    assert one.validation.validation_losses == other.validation.validation_losses
    assert one.apply.training_losses == other.apply.training_losses
    assert one.apply.evaluations == other.apply.evaluations
    assert one.evaluation == other.evaluation


def test_two_workers_give_the_loss_curve_of_one(
    ranks: list[dict[str, Any]], solo: dict[str, Found], name: str
):
    two, one = ranks[0][name], solo[name]
    close = 1e-4 if name == "single" else 1e-10
    for kind in ("probe", "validation", "apply", "resumed"):
        expected = getattr(one, kind).training_losses
        assert len(expected) > 9
        found = getattr(two, kind).training_losses
        assert found == pytest.approx(expected, rel=0, abs=close), kind
    expected = one.validation.validation_losses
    assert len(expected) == 16
    assert two.validation.validation_losses == pytest.approx(expected, rel=0, abs=close)
    assert two.evaluation == pytest.approx(one.evaluation, rel=0, abs=close)
    assert [entry[:2] for entry in two.apply.evaluations] == [
        entry[:2] for entry in one.apply.evaluations
    ]


def test_a_probe_of_two_workers_gives_the_same_bits_again(ranks: list[dict[str, Any]], name: str):
    found = ranks[0][name]
    assert (
        found.probe.training_losses
        == found.again.training_losses
        == found.apply.training_losses[:12]
    )


def test_a_worker_alone_gives_the_curve_of_both(ranks: list[dict[str, Any]], name: str):
    for rank in ranks:
        found = rank[name]
        for alone, together in (
            (found.alone.training_losses, found.probe.training_losses),
            (found.alone_validation.validation_losses, found.validation.validation_losses),
        ):
            if TASKS[name].micro_batch_size == 8:  # one micro-batch for each worker
                assert alone == together
            assert alone == pytest.approx(together, rel=0, abs=1e-12)


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
    sample = f"samples of train_dataset: {sample_of_rank_one()}, "
    told = f"step 0 cannot be trained on.* before any update, the loss is nan, .* {sample}"
    for found in ranks:
        assert re.search(told, found["refusal"])
        assert found["refusal"] == ranks[0]["refusal"]


def sample_of_rank_one() -> int:
    return epoch_order(ToyTask.samples, 0, 8, 1)[0]


def test_a_bad_batch_of_one_worker_is_told_or_skipped_by_all(ranks: list[dict[str, Any]]):
    alone = bad_batch_of_rank_one(Solo())
    assert f"step {BAD_STEP} cannot be trained on" in alone["told"]
    assert alone["skipped"] == 1
    for found in ranks:
        assert found["bad"]["told"] == alone["told"]
        assert found["bad"]["skipped"] == 1
        assert found["bad"]["losses"] == pytest.approx(alone["losses"], rel=0, abs=1e-10)


def test_workers_take_the_mean_over_the_counted_micro_batches_of_all(ranks: list[dict[str, Any]]):
    alone = bad_batch_of_rank_one(Solo())["uncounted"]
    assert all(map(math.isfinite, alone))
    for found in ranks:
        assert found["bad"]["uncounted"] == pytest.approx(alone, rel=0, abs=1e-10)


def wide_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 200), nn.Linear(200, 3)
    )


def repeat_a_probe(group: Group) -> dict[str, Any]:
    task = SingleTask(wide_net, global_batch_size=15)
    worker = make_worker(task, group=group)
    probe = Probe(1, 0, Segment(0, 11, 0.2))
    return {"losses": [worker.run_probe(probe, silent).training_losses for _ in range(2)]}


def test_the_first_probe_of_three_workers_adds_gradients_in_the_order_of_the_next(tmp_path: Path):
    # DDP sorts its buckets after its first backward pass, and gloo's sum of three or more
    # depends on the place in the bucket. With two workers there is one order only.
    for found in start_workers(repeat_a_probe, 3, tmp_path):
        first, second = found["losses"]
        assert first == second
