"""Whether a stage went on after the validation loss had turned."""

from __future__ import annotations

import pytest

from ray_autolrs.report.lines import describe
from ray_autolrs.report.overfitting import Turn, turn


def applied(validation, training=None):
    """A stage of 100 steps from step 200 on, evaluated every 20 steps."""
    return {
        "kind": "apply",
        "stage": 2,
        "diverged": False,
        "segment": {"first_step": 200},
        "steps": 100,
        "evaluations": [
            [200 + 20 * number, name, loss]
            for number, loss in enumerate(validation, start=1)
            for name in ("loss", "accuracy")
        ],
        "training_losses": training or [1.0 - 0.005 * step for step in range(100)],
    }


def test_a_stage_that_overfits_is_told_where_it_turned():
    record = applied([1.0, 0.8, 0.85, 0.9, 0.95])
    assert turn(record) == Turn(step=240, loss=0.8, last=0.95)
    line = describe(record)
    assert line is not None
    assert "0.8 after step 240, and has risen to 0.95" in line


@pytest.mark.parametrize(
    ("validation", "training"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.75], None),  # one is not enough
        ([1.0, 0.8, 0.85, 0.9, 0.8], None),  # as low as before
        ([1.0, 0.8, 0.803, 0.802, 0.805], None),  # noise
        ([1.0, 0.8, 0.85, 0.9, 0.95], [1.0] * 40 + [2.0] * 60),  # the training loss rose too
        ([0.8, 0.9], None),
        ([None, None, None, None, None], None),
    ],
)
def test_nothing_is_said_of_one_that_does_not(validation, training):
    record = applied(validation, training)
    assert turn(record) is None


def test_losses_that_are_not_finite_are_left_out():
    training = [None if step == 99 else 1.0 - 0.005 * step for step in range(100)]
    assert turn(applied([1.0, 0.8, None, 0.9, 0.95], training)) == Turn(240, 0.8, 0.95)
