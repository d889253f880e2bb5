"""With what average of the weights a schedule was found: its LRs are right with that one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ray_autolrs.algorithm.field_checks import check, check_fraction, is_number, shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWith:
    """What a run kept beside its weights.

    Attributes:
        kind: name of the average's type.
        momentum: how near to the average gradients were taken (β); None where they were taken
            at the weights themselves.
        power: weight of a step in that average, as a power of its number (r).
        base_momentum: momentum of the optimizer inside, which was turned off; its LRs are those
            that it has with this momentum. None where nobody took note of it.

    Raises:
        ValueError: a field is out of its range.
    """

    kind: str
    momentum: float | None = None
    power: float | None = None
    base_momentum: float | None = None

    def __post_init__(self) -> None:
        check(self, "kind", isinstance(self.kind, str), "must be the name of an average's type")
        check_fraction(self, "momentum", optional=True)
        for name in ("power", "base_momentum"):
            value = getattr(self, name)
            holds = value is None or (is_number(value) and value >= 0)
            check(self, name, holds, "must be None or a finite number that is not negative")
        rule = "must be a number where momentum is one"
        check(self, "power", self.momentum is None or self.power is not None, rule)

    @property
    def is_schedule_free(self) -> bool:
        """Whether the average was part of the optimizer's steps."""
        return self.momentum is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that have a value, as JSON values."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Any) -> FoundWith:
        """Build it from :meth:`to_dict`'s result.

        Raises:
            ValueError: it is not such a result.
        """
        if not isinstance(values, dict):
            raise ValueError(
                f"averaging={shortened(values)} must be an object, with the kind of average"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        if "kind" not in values or not set(values) <= set(names):
            raise ValueError(f"averaging={shortened(values)} must have a kind; it may have {names}")
        return cls(**values)
