"""How straight the way of the weights is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.optim import SGD, Adam

from ray_autolrs import ScheduleFree
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.weight_path import MOST_ELEMENTS, MOST_TENSORS, WeightPath
from tests.training.toy import ToyTask, make_worker


def moved(steps, size=3):
    """The directness after steps of one parameter, each a vector, by SGD with an LR of 1."""
    weights = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = SGD([weights], lr=1.0)
    path = WeightPath(optimizer)
    for step in steps:
        weights.grad = -torch.as_tensor(step, dtype=torch.float64).expand(size)
        optimizer.step()
        path.take_in()
    return path.directness()


@pytest.mark.parametrize(
    ("steps", "directness"),
    [
        ([1.0], 1.0),
        ([1.0, 1.0, 1.0, 1.0], 2.0),  # straight on: the root of the steps
        ([1.0, -1.0, 1.0, -1.0], 0.0),
        ([3.0, 4.0], 7 / 5),
        ([], None),
        ([math.nan], None),
    ],
)
def test_directness_is_the_distance_over_the_root_of_the_squares(steps, directness):
    found = moved(steps)
    assert found == (None if directness is None else pytest.approx(directness, rel=1e-6))


def test_a_random_walk_is_about_1():
    generator = torch.Generator().manual_seed(0)
    found = moved(torch.randn(200, 1000, generator=generator, dtype=torch.float64), size=1000)
    assert found == pytest.approx(1.0, abs=0.1)


def test_of_an_average_it_is_the_way_of_the_optimizer_s_own_weights():
    """One step of Schedule-Free: the parameters move by a part, z by the whole of it."""
    weights = torch.zeros(1, requires_grad=True)
    optimizer = ScheduleFree(Adam([weights], lr=0.5), momentum=0.9)
    path = WeightPath(optimizer)
    for _ in range(4):
        weights.grad = torch.ones(1)
        optimizer.step()
        path.take_in()
    start, latest, _ = path.tensors
    z = optimizer.state[weights]["z"]
    assert torch.equal(latest, z)
    assert z.item() < weights.item() < start.item()
    assert path.directness() == pytest.approx(2.0, rel=1e-3)


def test_large_models_are_followed_by_a_sample():
    parameters = [torch.zeros(10_000, requires_grad=True) for _ in range(3 * MOST_TENSORS)]
    path = WeightPath(SGD(parameters, lr=1.0))
    assert path.tensors[0].numel() <= MOST_TENSORS * 2 * MOST_ELEMENTS


def test_weights_in_another_order_or_type_are_followed_where_they_lie():
    """Channels-last ones, float64 and bfloat16; z joins at the first step."""
    kernel = torch.zeros(8, 4, 2, 2).to(memory_format=torch.channels_last)
    parameters = [
        kernel.requires_grad_(),
        torch.zeros(5, 3, dtype=torch.float64, requires_grad=True),
        torch.zeros(3, dtype=torch.bfloat16, requires_grad=True),
        torch.zeros(()).requires_grad_(),
    ]
    for optimizer in (SGD(parameters, lr=1.0), ScheduleFree(SGD(parameters, lr=1.0))):
        path = WeightPath(optimizer)
        assert path.tensors[0].numel() == 128 + 15 + 3 + 1
        for sign in (1, 1, -1):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, sign)
            optimizer.step()
            path.take_in()
        assert path.directness() == pytest.approx(1 / math.sqrt(3), rel=1e-6)


def test_a_step_is_the_same_as_by_the_definition():
    """Over a run with a restore to before the first step, which drops z."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(9000, generator=generator).requires_grad_()
    optimizer = ScheduleFree(Adam([weights], lr=0.01))
    path = WeightPath(optimizer)
    start, beginning = weights.detach().clone(), [tensor.clone() for tensor in path.tensors]
    for _ in range(2):
        path.let_go()
        weights.detach().copy_(start)
        optimizer.state.clear()
        for tensor, value in zip(path.tensors, beginning, strict=True):
            tensor.copy_(value)
        ways = [start[::2]]
        for _ in range(5):
            weights.grad = weights.detach() + torch.randn(9000, generator=generator)
            optimizer.step()
            path.take_in()
            ways.append(optimizer.state[weights]["z"].clone()[::2])
        steps = torch.stack([new - old for old, new in itertools.pairwise(ways)]).double()
        expected = (ways[-1] - start[::2]).double().norm() / steps.square().sum().sqrt()
        assert path.directness() == pytest.approx(expected.item(), rel=1e-5)


def test_a_probe_leaves_no_trace_and_a_stage_tells_its_directness():
    task = ToyTask()
    worker = make_worker(task, ScheduleFreeAverage(), follows_path=True)
    worker.take_snapshot(0)
    segment = Segment(0, 19, 0.01, Flat())

    def apply():
        return worker.run_apply(Apply(1, segment), lambda *_: None)

    alone = apply()
    assert alone.directness is not None
    assert 0 < alone.directness <= math.sqrt(20)
    worker.run_probe(Probe(1, 0, Segment(0, 9, 0.3, Flat())), lambda *_: None)
    assert apply().directness == alone.directness
    worker.take_snapshot(20)
    further = worker.run_apply(Apply(2, Segment(20, 29, 0.01, Flat())), lambda *_: None)
    assert further.directness != alone.directness
    assert make_worker(task).replica.path is None
