"""The learning-rate (LR) range test: one short run whose LR rises from tiny to far too large.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Its LR
rises linearly; ours rises exponentially (fastai's and most later versions), because the search
interval of AutoLRS spans decades.

Symbols
    η_i   LR of step i, η_0 (η_n / η_0)^(i / n)
    L_i   loss of step i, the mean over the global batch
    S_i   smoothed loss: exponential moving average of L, divided by 1 - SMOOTHING^(i + 1) so
          that it does not begin at 0
    L̄     level before training: the mean of the first LEVEL_FRACTION of the losses
    σ     noise: standard deviation of a loss around its trend, from the differences of neighbours

How the interval is read
    lr_max   the η_i of the smallest S_i: the loss has stopped falling and turns up. Smith: where
             the accuracy "slows, becomes ragged, or starts to fall".
    lr_min   the smaller of two. First, the η_i at which S_i leaves L̄ for good, by FALL_BEGINS of
             its whole fall (Smith: where the accuracy "starts to increase"). Second, lr_max /
             DECADES: the best LR late in a run lies far below the one that lowers the loss of a
             new model fastest, and a search pays for a decade too many with a probe or two, but
             for one too few with the run.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.replica import Replica

logger = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss. Ours: an average over about ten steps, or 0.8 of a
decade with the defaults; fastai's 0.98 would lag behind by four decades."""

LEVEL_FRACTION = 0.1
"""Part of the steps whose mean loss is the level before training. Ours."""

MIN_FALL = 1.5
"""Smallest fall of the smoothed loss that is told from noise, in standard deviations of a single
loss. Ours: with 100 steps, the errors of S_i and of L̄ together are 0.4 of one, and the smallest
of 100 S_i lies about as far below their mean: a loss that stays passes by chance in 1 of 200."""

ROUNDING = 1e-6
"""A fall by less than this part of the level is rounding. Ours: ten float32 roundings."""

FALL_BEGINS = 0.1
"""Part of the whole fall after which the loss counts as falling. Ours."""

DECADES = 1000.0
"""Smallest ratio of lr_max to lr_min. Ours: intervals of three decades worked in every prototype
that the default was chosen by."""

DIVERGENCE = 4.0
"""The test ends when the smoothed loss exceeds its best by this factor. Source: fastai."""

MIN_STEPS = 20
"""Fewest steps of a range test. Ours: twice what the smoothed loss averages over."""

Ending = Literal["lr_end", "loss_rose", "not_finite"]


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
    """

    lr_min: float
    lr_max: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    ending: Ending

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses over the LR with the interval shaded, and write the image."""
        from matplotlib.figure import Figure  # without pyplot: no window, nothing global

        figure = Figure(figsize=(7, 4), layout="constrained")
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
        steps: optimizer steps from ``lr_start`` to ``lr_end``, at least 20.
        seed: seeds the model, the batches and the random numbers, as a run with this seed.
        device: where the model lives.
        num_workers: the global batch is cut into micro-batches as for this many workers, and
            their gradients are accumulated: each pass then needs a worker's memory.

    Returns:
        The interval and the curve it was read from.

    Raises:
        ValueError: an argument or a setting of the task is out of its range; the loss is not
            finite within the first steps; or it never falls. The message says what to do.
    """
    _check_arguments(lr_start, lr_end, steps, seed)
    lrs, device = _rising_lrs(lr_start, lr_end, steps), torch.device(device)
    with _random_states_kept(device):
        losses, ending = _train(task, lrs, seed, device, num_workers)
    lr_min, lr_max = read_interval(lrs, losses)
    logger.info(
        "LR range test of %s: %d of %d steps, ended by %s; interval %.3g to %.3g",
        type(task).__name__,
        len(losses),
        steps,
        ending,
        lr_min,
        lr_max,
    )
    if lr_max == lr_end:
        logger.warning(
            "the loss of %s was still falling at lr_end=%g; raise it to see where the loss rises",
            type(task).__name__,
            lr_end,
        )
    return RangeTestResult(lr_min, lr_max, tuple(lrs[: len(losses)]), tuple(losses), ending)


def read_interval(lrs: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Return (lr_min, lr_max) of a curve, by the rule that the module's docstring gives.

    Args:
        lrs: the LRs that were planned, increasing.
        losses: the finite losses of the steps that were taken, perhaps fewer.

    Raises:
        ValueError: there are too few losses to tell a level from a fall, or the smoothed loss
            never falls.

    >>> lrs = [10 ** (i / 20 - 5) for i in range(120)]  # 1e-5 to 1
    >>> losses = [(math.log10(lr) + 1) ** 2 for lr in lrs]  # 0 at 0.1
    >>> lr_min, lr_max = read_interval(lrs, losses)
    >>> round(lr_min, 6), round(lr_max, 2)
    (5.6e-05, 0.28)
    """
    level_losses = _level_losses(len(lrs))
    if len(losses) <= level_losses:
        raise ValueError(
            f"the loss is not finite at LR {lrs[len(losses)]:.3g}, after {len(losses)} of "
            f"{len(lrs)} steps; give a smaller lr_start, or check the data and the model's initial "
            "weights"
        )
    level, smoothed = math.fsum(losses[:level_losses]) / level_losses, smooth(losses)
    best = min(range(level_losses, len(smoothed)), key=smoothed.__getitem__)
    fall, noise = level - smoothed[best], _noise(losses[: best + 1])
    if not fall > max(MIN_FALL * noise, ROUNDING * abs(level)):
        raise ValueError(
            f"the loss never falls between LR {lrs[0]:.3g} and {lrs[len(losses) - 1]:.3g}: it "
            f"begins at {level:.6g}, its smallest smoothed value is {smoothed[best]:.6g}, and the "
            f"noise of a batch is {noise:.3g}. If it rises from the start, give a smaller "
            "lr_start; if it stays, a larger lr_end; if it is noisy, more steps or a larger batch"
        )
    threshold = level - FALL_BEGINS * fall
    above = [place for place in range(best) if smoothed[place] > threshold]
    begins = above[-1] + 1 if above else 0
    return min(lrs[begins], lrs[best] / DECADES), lrs[best]


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of a series, without its bias towards 0.

    >>> smooth([2.0, 2.0, 1.0])
    [2.0, 2.0, 1.6309963099630997]
    """
    smoothed, average = [], 0.0
    for number, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**number))
    return smoothed


def _train(
    task: TrainingTask, lrs: list[float], seed: int, device: torch.device, num_workers: int
) -> tuple[list[float], Ending]:
    """Train a new model with these LRs until one is too large, and return its losses."""
    batches = StepBatches(
        task,
        micro_batch_size=task.resolved_micro_batch_size(num_workers),
        seed=seed,
        pin_memory=device.type == "cuda",
    )
    replica = Replica(task, Solo(), device, seed)
    micros = range(batches.micro_batches)
    micro_losses = torch.zeros(len(micros), dtype=torch.float64, device=device)
    losses: list[float] = []
    for step, batch in enumerate(batches.stream(0, len(lrs), micros)):
        replica.take_step(step, batch, micros, lrs[step], micro_losses)
        loss = float(micro_losses.mean())
        if not math.isfinite(loss):
            return losses, "not_finite"
        losses.append(loss)
        if _has_risen(losses, _level_losses(len(lrs))):
            return losses, "loss_rose"
    return losses, "lr_end"


def _has_risen(losses: list[float], level_losses: int) -> bool:
    """Return whether the smoothed loss is far above its best and above its level at the start.

    The level, because four times a loss that is nearly 0 is still nearly 0.
    """
    if len(losses) <= level_losses:
        return False
    smoothed = smooth(losses)
    best, level = min(smoothed), math.fsum(losses[:level_losses]) / level_losses
    # 4 times a positive best, and above a negative one, too.
    return smoothed[-1] > max(best + (DIVERGENCE - 1) * abs(best), level)


def _rising_lrs(lr_start: float, lr_end: float, steps: int) -> list[float]:
    exponent = math.log(lr_end / lr_start) / (steps - 1)
    return [*(lr_start * math.exp(exponent * step) for step in range(steps - 1)), lr_end]


def _level_losses(steps: int) -> int:
    return max(1, round(LEVEL_FRACTION * steps))


def _noise(losses: Sequence[float]) -> float:
    """Return a loss's standard deviation around its trend.

    Neighbours share the trend; the median ignores a few spikes (0.6745 is its ratio to the
    standard deviation of a normal variable; a difference has the variance of two losses).
    """
    if len(losses) < 2:
        return 0.0
    differences = np.abs(np.diff(np.asarray(losses, dtype=np.float64)))
    return float(np.median(differences)) / (0.6745 * math.sqrt(2))


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """Put the global random states back at the end: Python's, NumPy's, PyTorch's on each device."""
    python, numpy = random.getstate(), np.random.get_state()
    uses_cuda = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if uses_cuda else ()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _check_arguments(lr_start: float, lr_end: float, steps: int, seed: int) -> None:
    for name, lr in (("lr_start", lr_start), ("lr_end", lr_end)):
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"{name}={lr!r} must be positive and finite")
    if not lr_start < lr_end:
        raise ValueError(f"lr_start={lr_start!r} must be smaller than lr_end={lr_end!r}")
    for name, value, minimum in (("steps", steps, MIN_STEPS), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")
