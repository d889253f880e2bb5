from __future__ import annotations

import math

import numpy as np
import pytest

from ray_autolrs.algorithm.search.lr_interval import (
    NeverFellError,
    fallback_interval,
    has_risen,
    paired,
    read_interval,
    smooth,
)

LRS = [10 ** (place / 10 - 7) for place in range(81)]
"""1e-7 to 10."""


def test_smooth_has_no_bias():
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)
    assert smooth([1.0, 0.0]) == pytest.approx([1.0, 0.9 / 1.9])
    assert smooth([]) == []


def curve(begin, best, noise=0.0, level=2.0):
    """A loss that stays up to ``begin``, falls by 1 up to ``best`` (log LR), then explodes."""
    generator = np.random.default_rng(0)
    losses = []
    for lr in LRS:
        place = (math.log10(lr) - begin) / (best - begin)
        loss = level - min(max(place, 0.0), 1.0) + (100 * (place - 1) if place > 1 else 0.0)
        losses.append(loss + noise * generator.standard_normal())
    return losses


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(
    ("begin", "best", "lr_min", "lr_max"),
    [
        (-3.0, 0.0, 1e-3, 1.0),  # three decades below the upper end
        (-2.0, -1.0, 1e-4, 0.1),  # a steep fall: three decades all the same
        (-5.5, 0.0, 10**-4.7, 1.0),  # a long fall: from where it begins, and a tenth has passed
    ],
)
def test_read_interval(begin, best, lr_min, lr_max, noise):
    found = read_interval(LRS, curve(begin, best, noise))
    # The smoothed loss averages over a decade of this curve, and so does the tolerance.
    assert np.log10(found) == pytest.approx(np.log10([lr_min, lr_max]), abs=0.5)


def test_the_interval_does_not_depend_on_the_losses_scale():
    losses = curve(-3.0, 0.0, noise=0.05)
    expected = read_interval(LRS, losses)
    assert read_interval(LRS, [1000 * loss for loss in losses]) == expected
    assert read_interval(LRS, [loss - 50 for loss in losses]) == expected


def test_a_curve_cut_short_gives_the_interval_of_the_whole():
    losses = curve(-3.0, 0.0)
    assert read_interval(LRS, losses[:75]) == read_interval(LRS, losses)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([2.0] * 81, "never falls between LR 1e-07 and 10: it begins at 2, its smallest smoothed"),
        ([2.0 + 0.1 * place for place in range(81)], "If it rises from the start, give a smaller"),
        ([2.0 + 0.5 * (-1) ** place for place in range(81)], "the noise of a batch is"),
        ([2.0] * 8, r"not finite at LR 6\.31e-07, after 8 of 81 steps; give a smaller lr_start"),
        ([], r"not finite at LR 1e-07, after 0 of 81 steps; .* check the data"),
    ],
)
def test_curves_without_an_interval_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        read_interval(LRS, losses)


def test_noise_alone_is_seldom_taken_for_a_fall():
    generator = np.random.default_rng(0)
    lrs = [10 ** (place / 12) for place in range(100)]
    taken = 0
    for _ in range(400):
        try:
            read_interval(lrs, generator.standard_normal(100).tolist())
        except ValueError:
            continue
        taken += 1
    assert taken <= 6


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 10 + [9.0], False),  # one bad batch
        ([1.0] * 10 + [9.0] * 10, True),
        ([9.0] * 10, False),  # the level before training is not known yet
        ([1.0] * 30 + [0.001] * 60 + [0.1] * 30, False),  # still below the level
        ([-1.0] * 20 + [1.5] * 20, False),
        ([-1.0] * 20 + [2.5] * 30, True),
    ],
)
def test_a_loss_has_risen_far_above_its_best(losses: list[float], expected: bool):
    assert has_risen(losses, planned=100) is expected


def test_paired_losses_show_a_fall_below_the_noise_of_a_batch():
    generator = np.random.default_rng(0)
    batches = 2.0 + 0.5 * generator.standard_normal(81)
    gained = [loss - 2.0 for loss in curve(-3.0, 0.0)]
    losses = [float(batch) + 0.05 * gain for batch, gain in zip(batches, gained, strict=True)]
    with pytest.raises(NeverFellError):
        read_interval(LRS, losses)
    found = read_interval(LRS, paired(losses, batches.tolist()), local_noise=True)
    assert np.log10(found) == pytest.approx(np.log10([1e-3, 1.0]), abs=0.5)


def test_the_fallback_lies_around_the_optimizers_lr_and_below_the_rise():
    flat = [2.0] * 81
    assert fallback_interval(1e-3, LRS, flat, flat) == pytest.approx((3.16e-5, 3.16e-2), rel=1e-3)
    risen = [2.0] * 50 + [2.0 + 0.1 * place for place in range(31)]  # from LR 0.01 on
    assert fallback_interval(1e-3, LRS, risen, flat) == pytest.approx((1e-5, 1e-2), rel=0.3)
    # Less than what batches differ by is no rise.
    noisy = [2.0 + 0.5 * (-1) ** place for place in range(81)]
    low, high = fallback_interval(1e-3, LRS, paired(risen, flat), noisy)
    assert (low, high) == pytest.approx((3.16e-5, 3.16e-2), rel=1e-3)
