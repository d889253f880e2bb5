"""Averaged weights with two workers over gloo, against one worker and a worker alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupCosine
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.training.collectives import Group, Solo
from tests.training.processes import start_workers
from tests.training.toy import (
    AVERAGES,
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    silent,
    state_of,
)

CLOSE = 1e-10


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


TASKS = {
    "sgd": ToyTask(full_net, micro_batch_size=8, augment=True),
    "adam": ToyTask(full_net, adam, micro_batch_size=8, max_grad_norm=0.5),
    "accumulated": ToyTask(full_net, micro_batch_size=4, augment=True),
}
CASES = [("schedule_free", task) for task in TASKS] + [("ema", "sgd"), ("own", "sgd")]


@dataclass
class Found:
    """What one worker saw."""

    probe: ProbeDone
    curve: ProbeDone
    alone: ProbeDone
    alone_curve: ProbeDone
    apply: ApplyDone
    again: ApplyDone
    resumed: ApplyDone
    model: dict[str, Tensor]
    state: dict[str, Any]


def explore(kind: str, task: ToyTask, group: Group) -> Found:
    averaging, shape = replace(AVERAGES[kind], calibration_batches=4), WarmupCosine(0, 400)
    worker = make_worker(task, averaging, group=group, probe_samples=10)
    tried, wanted = Segment(0, 15, 0.05, shape), Segment(0, 39, 0.05, shape)
    probe = worker.run_probe(Probe(1, 0, tried, evals=1, may_go_on=True), silent)
    curve = worker.run_probe(Probe(1, 1, tried, best=0, may_go_on=True), silent)
    apply = worker.run_apply(Apply(1, wanted, best=0), silent)
    worker._kept.forget()
    again = worker.run_apply(Apply(1, wanted, best=0), silent)
    if group.rank == 0:  # Alone means that the others need not take part.
        worker.run_probe(Probe(1, 2, Segment(0, 5, 0.1), evals=2), silent, alone=True)
    alone = worker.run_probe(Probe(1, 0, tried, evals=1), silent, alone=True)
    alone_curve = worker.run_probe(Probe(1, 1, tried), silent, alone=True)

    worker.run_apply(Apply(1, wanted), silent)
    worker.take_snapshot(40)
    state = state_of(worker.replica) | {"step": 40}
    model: dict[str, Tensor] = {}
    if group.rank == 0:  # As the last checkpoint is saved: by rank 0, without the others.
        with worker.averaged(40):
            model = {
                name: value.clone() for name, value in worker.replica.module.state_dict().items()
            }
    fresh = make_worker(task, averaging, group=group, probe_samples=10)
    fresh.snapshot.load_state_dict(state)
    resumed = fresh.run_apply(Apply(2, Segment(40, 49, 0.05, shape)), silent)
    expected = worker.run_apply(Apply(2, Segment(40, 49, 0.05, shape)), silent)
    assert (resumed.training_losses, resumed.evaluations) == (
        expected.training_losses,
        expected.evaluations,
    )
    return Found(probe, curve, alone, alone_curve, apply, again, resumed, model, state)


def find_all(group: Group) -> dict[str, Any]:
    return {f"{kind}-{name}": explore(kind, TASKS[name], group) for kind, name in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    found: list[dict[str, Found]] = start_workers(find_all, 2, tmp_path_factory.mktemp("gloo"))
    return found


@pytest.fixture(scope="module")
def solo() -> dict[str, Found]:
    return find_all(Solo())


@pytest.fixture(params=[f"{kind}-{name}" for kind, name in CASES])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def means(done: ApplyDone) -> dict[tuple[int, str], float]:
    return {(step, name): value for step, name, value in done.evaluations}


def test_both_workers_tell_the_same(ranks: list[dict[str, Found]], case: str):
    one, other = (found[case] for found in ranks)
    for kind in ("probe", "curve", "apply", "resumed"):
        assert getattr(one, kind).training_losses == getattr(other, kind).training_losses, kind
    assert one.probe.validation_losses == other.probe.validation_losses
    for kind in ("apply", "resumed"):
        assert getattr(one, kind).evaluations == getattr(other, kind).evaluations, kind


def test_two_workers_give_what_one_gives(
    ranks: list[dict[str, Found]], solo: dict[str, Found], case: str
):
    two, one = ranks[0][case], solo[case]
    for kind in ("probe", "curve", "apply", "resumed"):
        expected = getattr(one, kind).training_losses
        assert getattr(two, kind).training_losses == pytest.approx(expected, rel=0, abs=CLOSE), kind
    for kind in ("apply", "resumed"):
        expected = means(getattr(one, kind))
        assert len(expected) == 2
        assert means(getattr(two, kind)) == pytest.approx(expected, rel=0, abs=CLOSE), kind
    assert two.model.keys() == one.model.keys()
    for name, value in one.model.items():
        torch.testing.assert_close(two.model[name], value, rtol=0, atol=CLOSE)


def test_a_worker_alone_gives_what_both_give(ranks: list[dict[str, Found]], case: str):
    for found in (rank[case] for rank in ranks):
        assert len(found.probe.validation_losses) == 1
        for alone, together in (
            (found.alone.validation_losses, found.probe.validation_losses),
            (found.alone_curve.training_losses, found.curve.training_losses),
        ):
            if case != "schedule_free-accumulated":  # one micro-batch for each worker
                assert alone == together
            assert alone == pytest.approx(together, rel=0, abs=1e-12)
        assert found.alone.forward_steps == found.probe.forward_steps > 0


def test_going_on_from_a_probe_gives_the_same_bits(ranks: list[dict[str, Found]], case: str):
    for found in (rank[case] for rank in ranks):
        assert (found.apply.reused_steps, found.again.reused_steps) == (16, 0)
        assert found.apply.training_losses == found.again.training_losses
        assert found.apply.evaluations == found.again.evaluations
        assert found.curve.training_losses == found.apply.training_losses[:16]


def test_every_worker_holds_the_same_average(ranks: list[dict[str, Found]], case: str):
    one, other = (found[case] for found in ranks)
    beside, inside = one.state["average"]["tensors"], one.state["optimizer"]["state"]
    assert len(beside or [own["z"] for own in inside]) == 6
    for part in ("tensors", "optimizer", "average"):
        assert_same(one.state[part], other.state[part])


@pytest.mark.parametrize("kind", AVERAGES)
def test_a_saved_model_gives_the_last_validation_loss(solo: dict[str, Found], kind: str):
    found, task = solo[f"{kind}-sgd"], TASKS["sgd"]
    model = task.build_model()
    model.load_state_dict(found.model)
    model.eval()
    data: Any = task.val_dataset()
    with torch.no_grad():
        loss = task.loss(model, list(data.tensors)).item()
    assert loss == pytest.approx(means(found.apply)[40, "loss"], rel=1e-12)
