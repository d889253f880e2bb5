from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest

from ray_autolrs.algorithm.field_checks import (
    check,
    check_bool,
    check_choice,
    check_fraction,
    check_integer,
    check_positive,
    is_integer,
    is_number,
)


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (3, True, True),
        (-3, True, True),
        (3.0, False, True),
        (True, False, False),
        (math.inf, False, False),
        (math.nan, False, False),
        ("3", False, False),
        (None, False, False),
    ],
)
def test_kinds_of_numbers(value, integer, number):
    assert (is_integer(value), is_number(value)) == (integer, number)


at_least_two = partial(check_integer, minimum=2)
choice = partial(check_choice, choices=("a", "b"))


@pytest.mark.parametrize(
    ("checks", "takes", "refuses", "rule"),
    [
        (at_least_two, [2, 9], [1, 2.0, True, "2", None], "must be an integer of at least 2"),
        (
            partial(at_least_two, optional=True),
            [None, 2],
            [1, False],
            "must be None or an integer of at least 2",
        ),
        (check_positive, [1, 0.5], [0, -1.0, math.inf, math.nan, True, "1", None], "must be a pos"),
        (
            partial(check_positive, optional=True),
            [None, 1],
            [0],
            "must be None or a positive, finite number",
        ),
        (check_fraction, [0.5, 1e-9], [0, 1, 1.5, math.nan, None], r"must be a number in \(0, 1\)"),
        (
            partial(check_fraction, optional=True),
            [None, 0.5],
            [0],
            r"must be None or a number in \(0, 1\)",
        ),
        (check_bool, [True, False], [0, 1, "yes", None], "must be True or False"),
        (choice, ["a"], ["c", None, ["a"]], r"must be one of \('a', 'b'\)"),
    ],
)
def test_a_field_keeps_the_rule_or_is_refused_with_its_name_and_value(checks, takes, refuses, rule):
    for value in takes:
        checks(SimpleNamespace(field=value), "field")
    for value in refuses:
        with pytest.raises(ValueError, match=rf"^SimpleNamespace\.field=.* {rule}"):
            checks(SimpleNamespace(field=value), "field")


def test_the_message_shows_the_value():
    with pytest.raises(ValueError, match=r"^SimpleNamespace\.field='x' must be a y; write one$"):
        check(SimpleNamespace(field="x"), "field", False, "must be a y; write one")
