"""What a run leaves for a comparison with others: its method, its losses and its costs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A finished run.

    Attributes:
        method: name of the schedule, or of what has found one.
        lr: peak learning rate of the first parameter group; None where the method finds it.
        seed: of model, batches and search.
        steps: applied optimizer steps that were asked for.
        curve: (applied steps, validation loss), in order; of a diverged run what it had reached.
        val_loss: of the trained model on the whole validation set; infinite if the run diverged.
            The model is that of the run's end, or with ``keep_best`` of its best evaluation.
        test_loss: likewise on the test set; None if the task has none.
        diverged: whether a loss was not finite. A diverged run stops.
        search_steps: optimizer steps beside the applied ones, with evaluations of probes as
            their share of a step.
        seconds: of the run, evaluations included.

    Raises:
        ValueError: a run that did not diverge has a validation loss that is not finite.

    >>> record = RunRecord(method="cosine", lr=0.1, seed=0, steps=9, val_loss=math.inf,
    ...                    diverged=True)
    >>> record.to_dict()["val_loss"], RunRecord.from_dict(record.to_dict()) == record
    (None, True)
    """

    method: str
    lr: float | None
    seed: int
    steps: int
    curve: tuple[tuple[int, float], ...] = ()
    val_loss: float
    test_loss: float | None = None
    diverged: bool = False
    search_steps: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if math.isfinite(self.val_loss) == self.diverged:
            raise ValueError(
                f"val_loss={self.val_loss!r} with diverged={self.diverged!r}: the loss of a run "
                "must be finite exactly if it did not diverge"
            )

    @property
    def total_steps(self) -> float:
        """Applied steps and search steps. A diverged run counts whole: its budget was spent."""
        return self.steps + self.search_steps

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values; infinite losses are null."""
        values = dataclasses.asdict(self)
        for name in ("val_loss", "test_loss"):
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = None
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunRecord:
        """Build a record from :meth:`to_dict`'s result; other keys are left out."""
        fields = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in fields}
        known["curve"] = tuple((int(step), float(loss)) for step, loss in known.get("curve", ()))
        if known["val_loss"] is None:
            known["val_loss"] = math.inf
        return cls(**known)


def steps_to(record: RunRecord, loss: float) -> float | None:
    """Return the applied steps after which a run's validation loss first was at most ``loss``.

    Between two evaluations the loss is taken as a straight line. None if it never was.

    >>> record = RunRecord(method="a", lr=1.0, seed=0, steps=20, val_loss=1.0,
    ...                    curve=((10, 3.0), (20, 1.0)))
    >>> steps_to(record, 2.0), steps_to(record, 4.0), steps_to(record, 0.5)
    (15.0, 10.0, None)
    """
    before: tuple[int, float] | None = None
    for step, value in record.curve:
        if value <= loss:
            if before is None or before[1] == value:
                return float(step)
            part = (before[1] - loss) / (before[1] - value)
            return before[0] + part * (step - before[0])
        before = (step, value)
    return None
