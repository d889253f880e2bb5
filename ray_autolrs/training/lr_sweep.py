"""The learning-rate (LR) range test: one short run whose LR rises from tiny to far too large.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Its LR
rises linearly; ours rises exponentially (fastai's and most later versions), because the search
interval of AutoLRS spans decades: step i has the LR η_0 (η_n / η_0)^(i / n).
:mod:`ray_autolrs.algorithm.search.lr_interval` reads the interval off the losses.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ray_autolrs.algorithm.field_checks import is_integer
from ray_autolrs.algorithm.search.lr_interval import (
    NeverFellError,
    fallback_interval,
    has_risen,
    paired,
    read_interval,
    smooth,
)
from ray_autolrs.lr_axes import new_figure
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.random_streams import random_states, set_random_states
from ray_autolrs.training.snapshot import Snapshot

logger = logging.getLogger(__name__)

MIN_STEPS = 20
"""Fewest steps of a range test. Ours: twice what the smoothed loss averages over."""

LONGEST_FACTOR = 4
"""A sweep is at most this much longer where a first one was too short. Ours."""

Ending = Literal["lr_end", "loss_rose", "not_finite"]
ReadBy = Literal["losses", "paired_losses", "optimizer_lr"]


@dataclass(frozen=True, slots=True)
class RangeTestResult:
    """The interval that a range test found, and its curve.

    Attributes:
        lr_min: lower end of the interval.
        lr_max: upper end of the interval.
        lrs: LR of the first parameter group, for each step that was taken.
        losses: mean loss of each step, before its update; all finite.
        ending: why the test ended: the last LR, a loss far above its best, or a loss that is
            not finite (which ``losses`` leaves out).
        read_by: what the interval was read off: the losses; their differences from what the same
            batches had before the test; or neither, and it lies around the optimizer's own LR.
        spent_steps: what all sweeps cost, in steps: a forward pass alone is a third of one.
    """

    lr_min: float
    lr_max: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    ending: Ending
    read_by: ReadBy = "losses"
    spent_steps: int = 0

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses over the LR with the interval shaded, and write the image."""
        figure = new_figure()
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, alpha=0.4, label="loss")
        axes.plot(self.lrs, smooth(self.losses), label="smoothed")
        axes.axvspan(self.lr_min, self.lr_max, alpha=0.1, color="green", label="interval")
        axes.set(xlabel="learning rate", ylabel="training loss", xscale="log")
        # The last losses of a diverging run would flatten all others.
        smoothed = smooth(self.losses)
        low = min(smoothed)
        high = max(smoothed[: smoothed.index(low) + 1])
        axes.set_ylim(low - (high - low) / 2, high + (high - low) / 2)
        axes.legend()
        figure.savefig(os.fspath(path))


def lr_range_test(
    task: TrainingTask,
    *,
    lr_start: float = 1e-7,
    lr_end: float = 10.0,
    steps: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 1,
) -> RangeTestResult:
    """Find the interval that AutoLRS searches, with one short run of a new model.

    The model is built, trained and dropped here; the caller's random states are put back. The
    same task and seed give the same result on the same device.

    Args:
        task: what to train. Its parameter groups keep the ratio of their LRs.
        lr_start: LR of the first parameter group in the first step.
        lr_end: its LR in the last step, if the run gets there.
        steps: optimizer steps from ``lr_start`` to ``lr_end``, at least 20. Where the loss falls
            by less than the noise of a batch, a second sweep has four times as many.
        seed: seeds the model, the batches and the random numbers, as a run with this seed.
        device: where the model lives.
        num_workers: the global batch is cut into micro-batches as for this many workers, and
            their gradients are accumulated: each pass then needs a worker's memory.

    Returns:
        The interval and the curve it was read from.

    Raises:
        ValueError: an argument or a setting of the task is out of its range, or the loss is not
            finite within the first steps. The message says what to do.
    """
    _check_arguments(lr_start, lr_end, steps, seed)
    outer = random_states()
    try:
        engine = Engine(task, Solo(), torch.device(device), seed=seed, num_workers=num_workers)
        snapshot = Snapshot()
        snapshot.capture(engine.replica, 0)
        return sweep_for_interval(engine, snapshot, lr_start=lr_start, lr_end=lr_end, steps=steps)
    finally:
        set_random_states(outer)


def sweep_for_interval(
    engine: Engine,
    snapshot: Snapshot,
    *,
    lr_start: float = 1e-7,
    lr_end: float = 10.0,
    steps: int = 100,
) -> RangeTestResult:
    """Find an interval from the state that a snapshot holds, in which the engine is left.

    It does not end a run that can be trained. Where the loss falls by less than the noise of a
    batch, as from pre-trained weights, each loss is compared with that of the same batch before
    the sweep; then a longer sweep is tried; and then the optimizer's own LR is believed, within
    a factor of 30.

    Args:
        engine: takes the steps.
        snapshot: of its replica, before step 0.
        lr_start: see :func:`lr_range_test`.
        lr_end: likewise.
        steps: likewise.

    Raises:
        ValueError: the loss is not finite within the first steps.
    """
    task = type(engine.replica.task).__name__
    engine.batches.begin(0, LONGEST_FACTOR * steps, is_probe=True)
    result = _swept(engine, snapshot, _rising_lrs(lr_start, lr_end, steps))
    if result.read_by == "optimizer_lr":
        logger.info("LR range test of %s: the loss falls too little; a longer sweep follows", task)
        spent = result.spent_steps
        result = _swept(engine, snapshot, _rising_lrs(lr_start, lr_end, LONGEST_FACTOR * steps))
        result = replace(result, spent_steps=spent + result.spent_steps)
    logger.info(
        "LR range test of %s: %d steps, ended by %s; interval %.3g to %.3g",
        task,
        result.spent_steps,
        result.ending,
        result.lr_min,
        result.lr_max,
    )
    if result.read_by == "optimizer_lr":
        logger.warning(
            "the loss of %s never falls between LR %.3g and %.3g by more than noise, also where "
            "the same batches are compared; the search goes around the LR of its optimizer, %.3g. "
            "If that may be far off, give the interval, lr=(low, high)",
            task,
            result.lrs[0],
            result.lrs[-1],
            engine.replica.initial_lrs[0],
        )
    elif result.lr_max == lr_end:
        logger.warning(
            "the loss of %s was still falling at lr_end=%g; raise it to see where the loss rises",
            task,
            lr_end,
        )
    return result


def _swept(engine: Engine, snapshot: Snapshot, lrs: list[float]) -> RangeTestResult:
    """Sweep once, and read an interval in the first way that gives one."""
    losses, ending = _sweep(engine, snapshot, lrs)
    spent = float(len(losses))
    read_by: ReadBy = "losses"
    try:
        interval = read_interval(lrs, losses)
    except NeverFellError:
        before = _losses_before(engine, snapshot, len(losses))
        spent += len(losses) / 3
        try:
            read_by, interval = (
                "paired_losses",
                read_interval(lrs, paired(losses, before), local_noise=True),
            )
        except NeverFellError:
            read_by = "optimizer_lr"
            interval = fallback_interval(engine.replica.initial_lrs[0], lrs, losses, before)
    taken = tuple(lrs[: len(losses)])
    return RangeTestResult(*interval, taken, tuple(losses), ending, read_by, math.ceil(spent))


def _sweep(engine: Engine, snapshot: Snapshot, lrs: list[float]) -> tuple[list[float], Ending]:
    """Train with these LRs until one is too large, put the state back, and return the losses."""
    losses: list[float] = []
    ending: Ending = "lr_end"
    snapshot.restore(engine.replica)
    table = engine.loss_table(len(lrs))
    for done in engine.steps(0, len(lrs), lrs.__getitem__, table):
        [loss] = engine.mean_losses(table[done - 1 : done])
        if not math.isfinite(loss):
            ending = "not_finite"
            break
        losses.append(loss)
        if has_risen(losses, len(lrs)):
            ending = "loss_rose"
            break
    snapshot.restore(engine.replica)
    return losses, ending


def _losses_before(engine: Engine, snapshot: Snapshot, steps: int) -> list[float]:
    """Return the losses of the first steps' batches at the weights that the snapshot holds."""
    table = engine.loss_table(steps)
    micros = engine.together.micros
    for step in range(steps):
        for micro in micros:
            batch = engine.batches.micro(step, micro)
            table[step, micro] = engine.replica.first_loss(step, micro, batch)
    snapshot.restore(engine.replica)
    return engine.mean_losses(table)


def _rising_lrs(lr_start: float, lr_end: float, steps: int) -> list[float]:
    exponent = math.log(lr_end / lr_start) / (steps - 1)
    return [*(lr_start * math.exp(exponent * step) for step in range(steps - 1)), lr_end]


def _check_arguments(lr_start: float, lr_end: float, steps: int, seed: int) -> None:
    for name, lr in (("lr_start", lr_start), ("lr_end", lr_end)):
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"{name}={lr!r} must be positive and finite")
    if not lr_start < lr_end:
        raise ValueError(f"lr_start={lr_start!r} must be smaller than lr_end={lr_end!r}")
    for name, value, minimum in (("steps", steps, MIN_STEPS), ("seed", seed, 0)):
        if not is_integer(value) or value < minimum:
            raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")
