"""Checks that parts of the settings make of their own fields when they are built.

Each refusal is a ``ValueError`` that names the field, its value and the rule. Numbers of NumPy and
tensors of shape () are turned into Python's own, so that settings can be compared and stored:
``np.float32(0.1)`` is 0.10000000149011612 from then on.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

LARGEST_INTEGER = 2**53
"""Above it, a float does not hold every integer."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 12


def is_integer(value: object) -> bool:
    """Return whether a value is an integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number that a float can hold; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def shortened(value: object) -> str:
    """Return a value for a message: what comes from a file may be huge, or deeply nested."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"


def plain(value: Any) -> Any:
    """Return a scalar of NumPy, or a tensor of shape (), as a Python number; all else as it is.

    A tuple is looked into.

    >>> import numpy
    >>> plain(numpy.int64(3)), plain("3")
    (3, '3')
    """
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    is_scalar = getattr(value, "shape", None) == () and callable(getattr(value, "item", None))
    return value.item() if is_scalar else value


def make_plain(part: Any, name: str) -> Any:
    """Turn a field of a frozen part into a Python number if it is one of NumPy or torch.

    Returns:
        The field as it is now.
    """
    value = getattr(part, name)
    number = plain(value)
    if number is not value:
        object.__setattr__(part, name, number)
    return number


def check(part: Any, name: str, holds: bool, rule: str) -> None:
    """Refuse the field ``name`` of a part unless the rule holds.

    Raises:
        ValueError: it does not.
    """
    if not holds:
        raise ValueError(f"{type(part).__name__}.{name}={shortened(getattr(part, name))} {rule}")


def check_integer(part: Any, name: str, *, minimum: int, optional: bool = False) -> None:
    """Refuse a field that is not an integer of at least ``minimum``, or None if ``optional``."""
    value = make_plain(part, name)
    rule = f"must be {'None or ' if optional else ''}an integer of at least {minimum}"
    holds = (optional and value is None) or (is_integer(value) and value >= minimum)
    check(part, name, holds, rule)
    check(part, name, value is None or value < LARGEST_INTEGER, "must be below 2**53")


def check_positive(part: Any, name: str, *, optional: bool = False) -> None:
    """Refuse a field that is not a positive, finite number, or None if ``optional``."""
    value = make_plain(part, name)
    rule = f"must be {'None or ' if optional else ''}a positive, finite number"
    check(part, name, (optional and value is None) or (is_number(value) and value > 0), rule)


def check_fraction(part: Any, name: str, *, optional: bool = False) -> None:
    """Refuse a field that is not a number between 0 and 1, both excluded."""
    value = make_plain(part, name)
    rule = f"must be {'None or ' if optional else ''}a number in (0, 1)"
    check(part, name, (optional and value is None) or (is_number(value) and 0 < value < 1), rule)


def check_bool(part: Any, name: str) -> None:
    """Refuse a field that is not True or False."""
    check(part, name, isinstance(make_plain(part, name), bool), "must be True or False")


def check_choice(part: Any, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is none of the choices."""
    value = getattr(part, name)
    check(part, name, isinstance(value, str) and value in choices, f"must be one of {choices}")
