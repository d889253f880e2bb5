"""What a run has cost, with probe steps and applied steps counted apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.records import Record


@dataclass(frozen=True, slots=True)
class Costs:
    """Steps and seconds of a run or of one stage.

    Attributes:
        probe_steps: optimizer steps of probes, diverged ones and those run ahead included, less
            those that an applied stage went on from.
        apply_steps: optimizer steps of the trained model.
        lost_steps: optimizer steps of stages that diverged, or that were taken again after a
            restart, as far as the lost workers were heard of.
        probe_s: seconds in probes.
        apply_s: seconds in applied stages, evaluations and lost steps included.
        forward_steps: what probes spent on validation and on BatchNorm's statistics, in steps.
        skipped_steps: of ``apply_steps``, those left out because their batches were bad.
    """

    probe_steps: int = 0
    apply_steps: int = 0
    lost_steps: int = 0
    probe_s: float = 0.0
    apply_s: float = 0.0
    forward_steps: float = 0.0
    skipped_steps: int = 0

    @property
    def search_fraction(self) -> float:
        """Probe, forward and lost steps as a fraction of the applied steps."""
        spent = self.probe_steps + self.forward_steps + self.lost_steps
        return spent / max(1, self.apply_steps)


def count_costs(records: Iterable[Record], stage: int | None = None) -> Costs:
    """Add up the costs of a log, or of one stage of it.

    A stage that was applied again after a restart counts once as applied: its earlier steps
    were lost.
    """
    probe_steps = apply_steps = lost_steps = 0
    probe_s = apply_s = forward_steps = 0.0
    last_applied: dict[int, int] = {}
    skipped: dict[int, int] = {}
    for record in records:
        if stage is not None and record.get("stage") != stage:
            continue
        if record["kind"] == "ready":
            lost_steps += record.get("redone_steps", 0)
        # One that was run ahead and then asked for has a record of both kinds.
        elif record["kind"] == "foreseen" or (
            record["kind"] == "probe" and not record.get("foreseen", False)
        ):
            probe_steps += record["steps"]
            forward_steps += record["forward_steps"]
            probe_s += record["wall_s"]
        elif record["kind"] == "apply":
            apply_s += record["wall_s"]
            probe_steps -= record["reused_steps"]
            if record["diverged"]:
                lost_steps += record["steps"]
            else:
                lost_steps += last_applied.get(record["stage"], 0)
                last_applied[record["stage"]] = record["steps"]
                skipped[record["stage"]] = record.get("skipped_steps", 0)
    apply_steps = sum(last_applied.values())
    return Costs(
        probe_steps=probe_steps,
        apply_steps=apply_steps,
        lost_steps=lost_steps,
        skipped_steps=sum(skipped.values()),
        forward_steps=forward_steps,
        probe_s=probe_s,
        apply_s=apply_s,
    )
