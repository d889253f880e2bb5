"""Checksums inside JSON objects: a damaged file is told from a whole one, and stays readable.

A file's object holds the SHA-256 of its other values. One that holds none, as older versions and
people write them, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

CHECKSUM_KEY = "sha256"

LINE_DIGITS = 16
"""Hexadecimal digits of the checksum of a line in a log: a whole one would be longer than most."""


def sealed(value: Any, digits: int | None = None) -> Any:
    """Return a JSON object with its checksum as the last key; other values as they are.

    Args:
        value: what is to be written.
        digits: hexadecimal digits of the checksum; None is all 64.

    Raises:
        ValueError: it holds a number that is not finite.

    >>> unsealed(sealed({"a": 1}))
    {'a': 1}
    """
    if not isinstance(value, dict):
        return value
    return value | {CHECKSUM_KEY: _digest(value)[:digits]}


def unsealed(value: Any) -> Any:
    """Return what :func:`sealed` was given; what holds no checksum as it is.

    Raises:
        ValueError: the checksum is not that of the values.
    """
    if not isinstance(value, dict) or CHECKSUM_KEY not in value:
        return value
    values = {key: item for key, item in value.items() if key != CHECKSUM_KEY}
    found = value[CHECKSUM_KEY]
    digits = len(found) if isinstance(found, str) else 0
    if digits < LINE_DIGITS or found != _digest(values)[:digits]:
        raise ValueError(
            f"it does not have the checksum that it was written with: it is damaged or was "
            f"changed; put it back, or delete its {CHECKSUM_KEY!r} if the change is meant"
        )
    return values


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
