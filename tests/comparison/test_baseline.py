from __future__ import annotations

import functools

import pytest
import torch
import transformers
from torch import nn

from ray_autolrs.algorithm.schedules.cycles import Cyclic
from ray_autolrs.algorithm.schedules.decays import Cosine, Linear, MultiStep
from ray_autolrs.algorithm.schedules.shapes import Constant
from ray_autolrs.comparison.baseline import Baseline
from ray_autolrs.comparison.catalogue import (
    BASELINES,
    exp_range,
    inverse_sqrt,
    multi_step,
    one_cycle,
    sgdr,
    triangular,
    wsd,
)
from ray_autolrs.schedule import LRSchedule
from tests.algorithm.reference import reference_factors

STEPS, WARMUP = 120, 12


def factors(baseline, steps=STEPS):
    return [baseline.factor(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (Baseline(total_steps=3, shape=Constant()), [1.0, 1.0, 1.0]),
        (Baseline(total_steps=4, warmup_steps=2, shape=Constant()), [0.5, 1.0, 1.0, 1.0]),
        (
            Baseline(total_steps=6, warmup_steps=2, shape=Linear(2, 4)),
            [0.5, 1.0, 1.0, 0.75, 0.5, 0.25],
        ),
        # A milestone within the warm-up lowers what it rises to.
        (Baseline(total_steps=4, warmup_steps=2, shape=MultiStep((1,))), [0.05, 0.1, 0.1, 0.1]),
        (
            Baseline(total_steps=7, warmup_steps=2, shape=Cyclic(2, 2, 0.5)),
            [0.25, 0.5, 0.5, 0.75, 1.0, 0.75, 0.5],
        ),
    ],
)
def test_warmup_then_shape(baseline, expected):
    assert factors(baseline, baseline.total_steps) == pytest.approx(expected, abs=1e-15)


PLAN = {"num_warmup_steps": WARMUP, "num_training_steps": STEPS}


@pytest.mark.parametrize(
    ("baseline", "make", "settings"),
    [
        (BASELINES["linear"], transformers.get_linear_schedule_with_warmup, PLAN),
        (BASELINES["cosine"], transformers.get_cosine_schedule_with_warmup, PLAN),
        (
            BASELINES["inverse_sqrt"],
            transformers.get_inverse_sqrt_schedule,
            {"num_warmup_steps": WARMUP},
        ),
        (
            functools.partial(wsd, decay_fraction=0.25),
            transformers.get_wsd_schedule,
            PLAN | {"num_decay_steps": 30, "decay_type": "linear"},
        ),
    ],
)
def test_equals_transformers(baseline, make, settings):
    expected = reference_factors(functools.partial(make, **settings), STEPS)
    # transformers warms up from 0, one step later than we do.
    expected = expected[1 : WARMUP + 1] + expected[WARMUP:]
    ours = factors(baseline(STEPS, warmup_steps=WARMUP))
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("warmup_steps", [0, WARMUP])
def test_every_baseline(name, warmup_steps, tmp_path):
    baseline = BASELINES[name](STEPS, warmup_steps=warmup_steps)
    values = factors(baseline)
    # CLR's exp_range is lower by gamma^half_cycle at its first peak, as its paper has it.
    assert max(values) == pytest.approx(0.81 if name == "exp_range" else 1.0, abs=0.02)
    assert min(values) >= 0.0
    assert values[:warmup_steps] == sorted(values[:warmup_steps])
    # No jump where the warm-up ends: it rises to what the shape begins with.
    if warmup_steps:
        assert values[warmup_steps - 1] == pytest.approx(values[warmup_steps])

    schedule = baseline.schedule(0.3)
    assert schedule.total_steps == STEPS
    lrs = [schedule.lr_at(step) for step in range(STEPS)]
    assert lrs == pytest.approx([0.3 * value for value in values], rel=1e-15)
    schedule.save(tmp_path / "schedule.json")
    assert LRSchedule.load(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize("name", BASELINES)
def test_a_longer_run_is_the_same_schedule_stretched(name):
    steps = 7 * 8 * 2  # whole steps for 4 cycles of CLR and 1 + 2 + 4 parts of SGDR
    short, long = BASELINES[name](steps), BASELINES[name](10 * steps)
    if name in ("constant", "inverse_sqrt"):  # they know no end
        assert factors(short, steps) == factors(long, steps)
    else:
        stretched = [long.factor(10 * step) for step in range(steps)]
        assert factors(short, steps) == pytest.approx(stretched, abs=0.05)


def make_optimizer():
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.01},
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.04},
    ]
    return torch.optim.AdamW(groups)


@pytest.mark.parametrize(("peak_lr", "peak"), [(None, 0.01), (0.5, 0.5)])
def test_scheduler(peak_lr, peak):
    baseline = BASELINES["cosine"](8, warmup_steps=2)
    optimizer = make_optimizer()
    scheduler = baseline.scheduler(optimizer, peak_lr)
    for step in range(8):
        lrs = [group["lr"] for group in optimizer.param_groups]
        expected = peak * baseline.factor(step)
        assert lrs == pytest.approx([expected, 4 * expected], rel=1e-15)
        optimizer.step()
        scheduler.step()


def test_scheduler_resumes_at_a_step():
    baseline = BASELINES["linear"](8, warmup_steps=2)
    optimizer = make_optimizer()
    scheduler = baseline.scheduler(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    # The optimizer's LR is no longer the peak; its initial one is.
    resumed = baseline.scheduler(optimizer, last_epoch=4)
    assert resumed.get_last_lr() == pytest.approx([0.01 * 0.5, 0.04 * 0.5])


@pytest.mark.parametrize(
    ("baseline", "shape"),
    [
        (multi_step(200), MultiStep((100, 150), 0.1)),
        (multi_step(200, milestones=[0.3], gamma=0.5), MultiStep((60,), 0.5)),
        (BASELINES["cosine"](100, warmup_steps=10), Cosine(10, 90, 0.0)),
        (triangular(96), Cyclic(0, 12, 0.25)),
        (triangular(97, warmup_steps=1, cycles=2), Cyclic(1, 24, 0.25)),
    ],
)
def test_shape(baseline, shape):
    assert baseline.shape == shape
    assert baseline.name == shape.name


def test_settings_that_depend_on_the_run():
    # exp_range's height at the end; the Transformer's time scale, and transformers' without one;
    # SGDR's cycles of 1 + 2 + 4 = 7 parts of 10 steps; one-cycle's end.
    last_peak = exp_range(1000, cycles=1, floor=0.0, last_height=0.1).factor(500)
    assert last_peak == pytest.approx(0.1**0.5)
    assert inverse_sqrt(99, warmup_steps=40).factor(80) == pytest.approx(0.5**0.5)
    assert inverse_sqrt(99).factor(10_000) == pytest.approx(0.5**0.5)
    restarts = [step for step in range(70) if sgdr(70).factor(step) == 1.0]
    assert restarts == [0, 10, 30]
    assert one_cycle(100).factor(99) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (Baseline, {"total_steps": 0, "shape": Constant()}, r"Baseline\.total_steps=0 must be an"),
        (BASELINES["linear"], {"total_steps": 9.5}, r"Baseline\.total_steps=9\.5 must be an int"),
        (
            BASELINES["linear"],
            {"total_steps": 9, "warmup_steps": -1},
            r"Baseline\.warmup_steps=-1 must be an integer of at least 0",
        ),
        (
            BASELINES["cosine"],
            {"total_steps": 9, "warmup_steps": 9},
            r"warmup_steps=9 must be smaller than total_steps=9; warm up for less",
        ),
        (
            triangular,
            {"total_steps": 99, "warmup_steps": 9, "floor": 0.0},
            r"warmup_steps=9 needs a shape that begins above 0, and Cyclic\(.*raise the shape's",
        ),
        (triangular, {"total_steps": 99, "cycles": 0}, r"cycles=0 must be an integer of at least"),
        (sgdr, {"total_steps": 99, "cycles": 1.5}, r"cycles=1\.5 must be an integer"),
        (sgdr, {"total_steps": 99, "growth": 0}, r"CosineRestarts\.growth=0 must be an integer"),
        (multi_step, {"total_steps": 99, "milestones": (50,)}, r"milestones=\(50,\) must be frac"),
        (wsd, {"total_steps": 99, "decay_fraction": 1.0}, r"decay_fraction=1\.0 must lie in"),
        (
            wsd,
            {"total_steps": 99, "warmup_steps": 90, "decay_fraction": 0.5},
            r"decay_steps=50 must be at most steps=9; decay for less",
        ),
        (exp_range, {"total_steps": 99, "last_height": 0.0}, r"last_height=0\.0 must lie in"),
    ],
)
def test_refuses(make, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.parametrize("peak_lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_peak_that_is_no_lr_is_refused(peak_lr):
    with pytest.raises(ValueError, match="must be positive and finite"):
        BASELINES["cosine"](9, warmup_steps=2).schedule(peak_lr)
