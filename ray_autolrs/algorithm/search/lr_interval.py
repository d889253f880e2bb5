"""The learning-rate (LR) interval to search, read off the losses of a sweep from tiny to large LRs.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.

Symbols
    η_i   LR of step i
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

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

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

LOCAL_LOSSES = 20
"""Losses that the noise near a place is taken from. Ours: twice what the smoothed loss averages
over."""

FALL_BEGINS = 0.1
"""Part of the whole fall after which the loss counts as falling. Ours."""

DECADES = 1000.0
"""Smallest ratio of lr_max to lr_min. Ours: intervals of three decades worked in every prototype
that the default was chosen by."""

DIVERGENCE = 4.0
"""A sweep ends when the smoothed loss exceeds its best by this factor. Source: fastai."""


class NeverFellError(ValueError):
    """The smoothed loss of a sweep never falls by more than noise."""


def read_interval(
    lrs: Sequence[float], losses: Sequence[float], *, local_noise: bool = False
) -> tuple[float, float]:
    """Return (lr_min, lr_max) of a curve, by the rule that the module's docstring gives.

    Args:
        lrs: the LRs that were planned, increasing.
        losses: the finite losses of the steps that were taken, perhaps fewer.
        local_noise: take the noise near the smallest loss, not over all steps: that of paired
            losses grows with the LR.

    Raises:
        NeverFellError: as it says.
        ValueError: there are too few losses to tell a level from a fall.

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
    level, smoothed = _level(losses, len(lrs)), smooth(losses)
    best = min(range(level_losses, len(smoothed)), key=smoothed.__getitem__)
    until_best = losses[max(0, best - LOCAL_LOSSES + 1) if local_noise else 0 : best + 1]
    fall, noise = level - smoothed[best], _noise(until_best)
    if not fall > max(MIN_FALL * noise, ROUNDING * abs(level)):
        raise NeverFellError(
            f"the loss never falls between LR {lrs[0]:.3g} and {lrs[len(losses) - 1]:.3g}: it "
            f"begins at {level:.6g}, its smallest smoothed value is {smoothed[best]:.6g}, and the "
            f"noise of a batch is {noise:.3g}. If it rises from the start, give a smaller "
            "lr_start; if it stays, a larger lr_end; if it is noisy, more steps or a larger batch"
        )
    threshold = level - FALL_BEGINS * fall
    above = [place for place in range(best) if smoothed[place] > threshold]
    begins = above[-1] + 1 if above else 0
    return min(lrs[begins], lrs[best] / DECADES), lrs[best]


def paired(losses: Sequence[float], before: Sequence[float]) -> list[float]:
    """Return a sweep's losses without what differs between batches (common random numbers).

    Each is compared with the loss of the same batch before the sweep, D_i = L_i - L_i(w_0); the
    mean of the latter is added, so that the curve begins at the level before training.

    >>> paired([2.5, 1.0, 1.5], before=[2.0, 1.0, 3.0])
    [2.5, 2.0, 0.5]
    """
    level = math.fsum(before) / len(before)
    return [level + loss - first for loss, first in zip(losses, before, strict=True)]


def fallback_interval(
    lr: float, lrs: Sequence[float], losses: Sequence[float], before: Sequence[float]
) -> tuple[float, float]:
    """Return the three decades around an LR, but none where the loss has risen for good.

    It has where it exceeds its level by more than the noise of a batch, on the same batches.

    Args:
        lr: the LR that the user's optimizer has.
        lrs: as for :func:`read_interval`.
        losses: likewise.
        before: as for :func:`paired`.

    >>> lrs = [10 ** (i / 10 - 7) for i in range(81)]  # 1e-7 to 10
    >>> [round(end, 6) for end in fallback_interval(0.01, lrs, [1.0] * 81, [1.0] * 81)]
    [0.000316, 0.316228]
    """
    high = lr * math.sqrt(DECADES)
    differences = paired(losses, before)
    level = _level(differences, len(lrs))
    most = level + max(_noise(before), ROUNDING * abs(level))
    low_enough = [place for place, loss in enumerate(smooth(differences)) if loss <= most]
    high = min(high, lrs[low_enough[-1]]) if low_enough[-1] < len(losses) - 1 else high
    return high / DECADES, high


def has_risen(losses: Sequence[float], planned: int) -> bool:
    """Return whether the smoothed loss is far above its best and above its level at the start.

    The level, because four times a loss that is nearly 0 is still nearly 0.

    Args:
        losses: of the steps so far.
        planned: steps of the whole sweep.
    """
    if len(losses) <= _level_losses(planned):
        return False
    smoothed = smooth(losses)
    best = min(smoothed)
    # 4 times a positive best, and above a negative one, too.
    return smoothed[-1] > max(best + (DIVERGENCE - 1) * abs(best), _level(losses, planned))


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


def _level_losses(planned: int) -> int:
    return max(1, round(LEVEL_FRACTION * planned))


def _level(losses: Sequence[float], planned: int) -> float:
    count = _level_losses(planned)
    return math.fsum(losses[:count]) / count


def _noise(losses: Sequence[float]) -> float:
    """Return a loss's standard deviation around its trend.

    Neighbours share the trend; the median ignores a few spikes (0.6745 is its ratio to the
    standard deviation of a normal variable; a difference has the variance of two losses).
    """
    if len(losses) < 2:
        return 0.0
    differences = [abs(later - earlier) for earlier, later in pairwise(losses)]
    return statistics.median(differences) / (0.6745 * math.sqrt(2))
