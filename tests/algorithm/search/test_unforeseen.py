"""Which stages did not go as the one before them let foresee."""

from __future__ import annotations

import numpy as np
import pytest

from ray_autolrs.algorithm.search.unforeseen import is_unforeseen

STEPS = 100


def losses(seed=0, *, level=1.0, noise=0.05, falls=0.5, start=0):
    """A falling series with noise in proportion to it."""
    places = np.arange(start, start + STEPS)
    course = level + falls * np.exp(-places / 60)
    draws = np.random.default_rng(seed).normal(size=STEPS)
    return (course * (1 + noise * draws)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_course_that_goes_on_is_foreseen(seed):
    assert not is_unforeseen(losses(seed), losses(seed + 10, start=STEPS))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("changed", "is_one"),
    [
        ({"level": 1.3}, True),  # data shift
        ({"noise": 0.05 / 8**0.5}, True),  # eight times the batch
        ({"noise": 0.05 * 2.5}, True),
        ({"level": 0.8}, False),  # it falls faster than forecast
        ({"noise": 0.05 / 1.2}, False),
    ],
)
def test_a_loss_that_rises_and_noise_that_changes_are_not(seed, changed, is_one):
    assert is_unforeseen(losses(seed), losses(seed + 10, start=STEPS, **changed)) == is_one


def test_a_change_in_the_first_half_of_a_stage_is_seen_at_its_end():
    after = [*losses(1, start=STEPS)[:40], *losses(2, level=1.5, start=STEPS)[40:]]
    assert is_unforeseen(losses(), after)


@pytest.mark.parametrize(("before", "after"), [(7, 100), (100, 15), (0, 0)])
def test_too_few_losses_tell_nothing(before, after):
    assert not is_unforeseen(losses()[:before], losses(level=9.0)[:after])


@pytest.mark.parametrize("count", [8, 25, 26, 51, 99])
def test_any_number_of_losses_is_enough_from_eight_on(count):
    assert is_unforeseen(losses(noise=0.01)[:count], losses(noise=0.01, level=5.0))


def test_losses_that_do_not_move_are_foreseen():
    assert not is_unforeseen([0.0] * STEPS, [0.0] * STEPS)
    assert not is_unforeseen([1.0] * STEPS, [1.0] * STEPS)
