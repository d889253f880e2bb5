"""The schedules that people tune by hand, with the settings that their authors recommend.

Each function takes ``total_steps`` and ``warmup_steps`` and plans its shape for what remains
after the warm-up. Other settings have the values of the schedule's source, or are marked as
ours. What is left to tune is the peak learning rate (LR).

>>> baseline = BASELINES["cosine"](100, warmup_steps=10)
>>> [round(baseline.factor(step), 3) for step in (0, 9, 10, 55, 99)]
[0.1, 1.0, 1.0, 0.5, 0.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from ray_autolrs.algorithm.schedules.cycles import (
    Anneal,
    CosineRestarts,
    CycleMode,
    Cyclic,
    OneCycle,
)
from ray_autolrs.algorithm.schedules.decays import (
    Cosine,
    DecayCurve,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    WarmupStableDecay,
)
from ray_autolrs.algorithm.schedules.shapes import Constant, Shape, is_number
from ray_autolrs.comparison.baseline import Baseline


class BaselineFactory(Protocol):
    """What every function below can be called with."""

    def __call__(self, total_steps: int, *, warmup_steps: int = 0) -> Baseline:
        """Return the baseline of a run of ``total_steps``, with its default settings."""


def constant(total_steps: int, *, warmup_steps: int = 0) -> Baseline:
    """Return a constant LR."""
    return _after_warmup(total_steps, warmup_steps, Constant())


def multi_step(
    total_steps: int,
    *,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
) -> Baseline:
    """Return an LR that falls by ``gamma`` at each milestone.

    Args:
        total_steps: steps of the run.
        warmup_steps: steps of linear warm-up.
        milestones: fractions of the run, in (0, 1). The default is He et al. 2016, section 4.2,
            for CIFAR-10.
        gamma: factor at a milestone.
    """
    if not all(is_number(milestone) and 0 < milestone < 1 for milestone in milestones):
        raise ValueError(
            f"milestones={milestones!r} must be fractions of the run, in (0, 1); for steps use "
            "Baseline with a MultiStep shape"
        )
    steps = tuple(round(milestone * total_steps) for milestone in milestones)
    return _after_warmup(total_steps, warmup_steps, MultiStep(steps, gamma))


def linear(total_steps: int, *, warmup_steps: int = 0, floor: float = 0.0) -> Baseline:
    """Return a linear decay to ``floor`` times the peak LR."""
    shape = Linear(warmup_steps, _remaining(total_steps, warmup_steps), floor)
    return _after_warmup(total_steps, warmup_steps, shape)


def cosine(total_steps: int, *, warmup_steps: int = 0, floor: float = 0.0) -> Baseline:
    """Return a cosine decay to ``floor`` times the peak LR."""
    shape = Cosine(warmup_steps, _remaining(total_steps, warmup_steps), floor)
    return _after_warmup(total_steps, warmup_steps, shape)


def polynomial(
    total_steps: int, *, warmup_steps: int = 0, power: float = 0.9, floor: float = 0.0
) -> Baseline:
    """Return a polynomial decay. The default power is that of ParseNet (Liu et al. 2015)."""
    shape = Polynomial(warmup_steps, _remaining(total_steps, warmup_steps), power, floor)
    return _after_warmup(total_steps, warmup_steps, shape)


def inverse_sqrt(
    total_steps: int, *, warmup_steps: int = 0, timescale: int | None = None
) -> Baseline:
    """Return an inverse-square-root decay.

    Args:
        total_steps: steps of the run; the shape does not depend on it.
        warmup_steps: steps of linear warm-up.
        timescale: steps after the warm-up until the factor is 1/√2. None takes the warm-up's
            length, as the Transformer does, and without one 10,000, as transformers does.
    """
    shape = InverseSqrt(
        warmup_steps, timescale if timescale is not None else warmup_steps or 10_000
    )
    return _after_warmup(total_steps, warmup_steps, shape)


def wsd(
    total_steps: int,
    *,
    warmup_steps: int = 0,
    decay_fraction: float = 0.2,
    curve: DecayCurve = "linear",
    floor: float = 0.0,
) -> Baseline:
    """Return warm-up, stable, decay.

    Args:
        total_steps: steps of the run.
        warmup_steps: steps of linear warm-up.
        decay_fraction: part of the run, warm-up included, in which the LR falls, in (0, 1).
            The default is within the 10-20% of Hägele et al. 2024.
        curve: how it falls.
        floor: factor at the end.
    """
    if not (is_number(decay_fraction) and 0 < decay_fraction < 1):
        raise ValueError(
            f"decay_fraction={decay_fraction!r} must lie in (0, 1): the part of the run in which "
            "the LR falls"
        )
    steps = _remaining(total_steps, warmup_steps)
    decay_steps = max(1, round(decay_fraction * total_steps))
    shape = WarmupStableDecay(warmup_steps, steps, decay_steps, curve, floor)
    return _after_warmup(total_steps, warmup_steps, shape)


def one_cycle(
    total_steps: int,
    *,
    warmup_steps: int = 0,
    rise_fraction: float = 0.3,
    start: float = 1 / 25,
    end: float = 1 / 25e4,
    anneal: Anneal = "cosine",
) -> Baseline:
    """Return one cycle, with torch's defaults. Its rise is a warm-up: ``warmup_steps`` may be 0."""
    steps = _remaining(total_steps, warmup_steps)
    shape = OneCycle(warmup_steps, steps, rise_fraction, start, end, anneal)
    return _after_warmup(total_steps, warmup_steps, shape)


def triangular(
    total_steps: int, *, warmup_steps: int = 0, cycles: int = 4, floor: float = 0.25
) -> Baseline:
    """Return CLR with cycles of one height.

    Args:
        total_steps: steps of the run.
        warmup_steps: steps of linear warm-up, to the floor.
        cycles: cycles in the run. Ours; Smith 2017 trains for 3 or more.
        floor: lowest factor. Smith 2017: a third or a quarter of the peak.
    """
    return _cyclic(total_steps, warmup_steps, cycles, floor, "triangular")


def triangular2(
    total_steps: int, *, warmup_steps: int = 0, cycles: int = 4, floor: float = 0.25
) -> Baseline:
    """Return CLR whose height halves after each cycle; arguments as :func:`triangular`."""
    return _cyclic(total_steps, warmup_steps, cycles, floor, "triangular2")


def exp_range(
    total_steps: int,
    *,
    warmup_steps: int = 0,
    cycles: int = 4,
    floor: float = 0.25,
    last_height: float = 0.1,
) -> Baseline:
    """Return CLR whose height falls exponentially; other arguments as :func:`triangular`.

    Args:
        total_steps: steps of the run.
        warmup_steps: steps of linear warm-up, to the floor.
        cycles: cycles in the run.
        floor: lowest factor.
        last_height: height at the run's end as a part of the first, in (0, 1]. Ours: Smith 2017
            gives a factor for each step (0.99994 over 25,000 steps ends at 0.22).
    """
    if not (is_number(last_height) and 0 < last_height <= 1):
        raise ValueError(
            f"last_height={last_height!r} must lie in (0, 1]: the part of the cycles' height that "
            "is left at the run's end"
        )
    gamma = last_height ** (1 / _remaining(total_steps, warmup_steps))
    return _cyclic(total_steps, warmup_steps, cycles, floor, "exp_range", gamma)


def sgdr(
    total_steps: int,
    *,
    warmup_steps: int = 0,
    cycles: int = 3,
    growth: int = 2,
    floor: float = 0.0,
) -> Baseline:
    """Return cosine decay with warm restarts.

    Args:
        total_steps: steps of the run.
        warmup_steps: steps of linear warm-up.
        cycles: cycles in the run, the last of which ends with it (within rounding, which may
            cut it by less than one step for each of its first cycle's lengths). Ours.
        growth: factor by which a cycle is longer than the one before (T_mult).
        floor: factor at a cycle's end.
    """
    _check_cycles(cycles)
    first_cycles = sum(growth**cycle for cycle in range(cycles))  # lengths of the first one
    first_cycle = max(1, -(-_remaining(total_steps, warmup_steps) // max(1, first_cycles)))
    shape = CosineRestarts(warmup_steps, first_cycle, growth, floor)
    return _after_warmup(total_steps, warmup_steps, shape)


BASELINES: MappingProxyType[str, BaselineFactory] = MappingProxyType(
    {
        "constant": constant,
        "multi_step": multi_step,
        "linear": linear,
        "cosine": cosine,
        "polynomial": polynomial,
        "inverse_sqrt": inverse_sqrt,
        "wsd": wsd,
        "one_cycle": one_cycle,
        "triangular": triangular,
        "triangular2": triangular2,
        "exp_range": exp_range,
        "sgdr": sgdr,
    }
)
"""Every baseline, by name."""


def _cyclic(
    total_steps: int,
    warmup_steps: int,
    cycles: int,
    floor: float,
    mode: CycleMode,
    gamma: float = 1.0,
) -> Baseline:
    _check_cycles(cycles)
    # Rounded up: a last cycle that is cut by a few steps, not one that begins anew for a few.
    half_cycle = -(-_remaining(total_steps, warmup_steps) // (2 * cycles))
    shape = Cyclic(warmup_steps, half_cycle, floor, mode, gamma)
    return _after_warmup(total_steps, warmup_steps, shape)


def _check_cycles(cycles: int) -> None:
    if not isinstance(cycles, int) or isinstance(cycles, bool) or cycles < 1:
        raise ValueError(f"cycles={cycles!r} must be an integer of at least 1")


def _after_warmup(total_steps: int, warmup_steps: int, shape: Shape) -> Baseline:
    return Baseline(total_steps=total_steps, warmup_steps=warmup_steps, shape=shape)


def _remaining(total_steps: int, warmup_steps: int) -> int:
    """Return the steps after the warm-up, having checked both numbers."""
    # A shape with no settings carries out Baseline's own checks, before a shape complains.
    _after_warmup(total_steps, warmup_steps, Constant())
    return total_steps - warmup_steps
