"""A run as a report sees it: its records by stage, and what they add up to."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import Costs, count_costs
from ray_autolrs.report.evaluations import Means, evaluations, saved_step
from ray_autolrs.report.stage_table import outcome
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.settings_tree import StoredSettings


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage.

    Attributes:
        number: from 1; 0 is the warm-up.
        probes: its records of kind ``probe``, in the order asked.
        choice: its last choice; None before the first.
        applied: its last application that did not diverge; None before.
    """

    number: int
    probes: tuple[Record, ...]
    choice: Record | None
    applied: Record | None

    @property
    def name(self) -> str:
        """The stage's name in a text."""
        return f"stage {self.number}" if self.number else "warm-up"

    @property
    def first_step(self) -> int:
        """Applied steps done when it begins."""
        if self.applied is not None:
            return int(self.applied["segment"]["first_step"])
        return int((self.choice or self.probes[0])["first_step"])

    @property
    def steps(self) -> int | None:
        """Its applied steps; None while its probes run."""
        if self.applied is not None:
            return int(self.applied["segment"]["last_step"]) + 1 - self.first_step
        return None if self.choice is None else int(self.choice["steps"])

    @property
    def lr(self) -> float | None:
        """The peak LR that was chosen; None before."""
        if self.choice is not None:
            return float(self.choice["peak_lr"])
        return None if self.applied is None else float(self.applied["segment"]["peak_lr"])

    @property
    def objective(self) -> str:
        """The loss that its probes are judged by: ``"training"`` or ``"validation"``."""
        return str(self.probes[0]["objective"]) if self.probes else "validation"

    @property
    def forecast(self) -> tuple[float, float] | None:
        """Loss forecast for the stage's end with the LR that was chosen, and σ; None for none."""
        choice = self.choice
        if choice is None or choice["forecast"] is None or choice["forecast_std"] is None:
            return None
        return float(choice["forecast"]), float(choice["forecast_std"])

    @property
    def outcome(self) -> float | None:
        """The loss that it ended at, of the kind that was forecast; None before."""
        return None if self.applied is None else outcome(self.applied, self.objective)

    def shade(self, probe: Record, shades: int) -> int | None:
        """Return 0 for the best promise of the stage to ``shades`` - 1 for the worst, by rank.

        By rank, because the worst promise may be far from all others. None for a probe that
        diverged.
        """
        if probe["forecast"] is None:
            return None
        promised = sorted(p["forecast"] for p in self.probes if p["forecast"] is not None)
        rank = promised.index(probe["forecast"])
        return round((shades - 1) * rank / max(1, len(promised) - 1))


@dataclass(frozen=True)
class RunView:
    """A run.

    Attributes:
        name: of its folder.
        records: of its log, in order.
        stored: what ``config.json`` holds; None before it is written.
        schedule: what ``schedule.json`` holds; None before the first stage is applied.
        live: what ``live.json`` holds; None where the run is not being trained.
    """

    name: str
    records: Sequence[Record]
    stored: StoredSettings | None = None
    schedule: LRSchedule | None = None
    live: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings; empty before they are stored."""
        return dict(self.stored["settings"]) if self.stored else {}

    @property
    def finished(self) -> Record | None:
        """The record of its end; None before."""
        return next((record for record in self.records if record["kind"] == "finished"), None)

    @property
    def live_losses(self) -> list[tuple[int, float]]:
        """Steps and training losses of the stage that is being applied, as far as it is."""
        live = self.live or {}
        done = any(s.number == live.get("stage") and s.applied is not None for s in self.stages)
        if self.finished is not None or done:
            return []
        return [(step, loss) for step, loss in live.get("losses", [])]

    @functools.cached_property
    def costs(self) -> Costs:
        """Of the whole run."""
        return count_costs(self.records)

    @functools.cached_property
    def stages(self) -> tuple[StageView, ...]:
        """The stages that were begun, in order."""
        by_number: dict[int, dict[str, Any]] = {}
        for record in self.records:
            if record["kind"] not in ("probe", "choice", "apply"):
                continue
            stage = by_number.setdefault(record["stage"], {"probes": {}})
            if record["kind"] == "probe":
                stage["probes"][record["index"]] = record
            elif record["kind"] == "choice" or not record["diverged"]:
                stage[record["kind"]] = record
        return tuple(
            StageView(
                number,
                tuple(probe for _, probe in sorted(stage["probes"].items())),
                stage.get("choice"),
                stage.get("apply"),
            )
            for number, stage in sorted(by_number.items())
            if len(stage) > 1 or stage["probes"]
        )

    @property
    def searched(self) -> list[StageView]:
        """The stages that had probes."""
        return [stage for stage in self.stages if stage.probes]

    @functools.cached_property
    def evaluations(self) -> dict[int, Means]:
        """Validation of the applied model, by applied steps done."""
        return evaluations(self.records)

    @property
    def saved_step(self) -> int | None:
        """The step whose weights are saved, or would be if the run ended now."""
        if not self.evaluations:
            return None
        keep_best = bool(self.settings.get("validation", {}).get("keep_best", False))
        return saved_step(self.evaluations, keep_best=keep_best)

    @functools.cached_property
    def applied_losses(self) -> Array:
        """Training loss of each applied step, shape (steps,); NaN where none is known."""
        applied = [stage.applied for stage in self.stages if stage.applied is not None]
        if not applied:
            return np.zeros(0)
        losses = np.full(applied[-1]["segment"]["last_step"] + 1, np.nan)
        for record in applied:
            first = record["segment"]["first_step"]
            values = np.array(record["training_losses"], dtype=np.float64)
            losses[first : first + len(values)] = values
        return losses

    @property
    def total_steps(self) -> int:
        """Applied steps of the whole run; those known so far where its end is not."""
        total = self.settings.get("total_steps")
        if self.finished is None and total is not None:
            return int(total)
        ends = [stage.first_step + (stage.steps or 0) for stage in self.stages]
        return max(ends, default=int(total or 1))

    @property
    def lr_interval(self) -> tuple[float, float] | None:
        """The smallest and the largest peak LR that was applied; None before the first."""
        lrs = [stage.lr for stage in self.stages if stage.number and stage.lr is not None]
        return (min(lrs), max(lrs)) if lrs else None
