"""What a run has cost, with probe steps and applied steps counted apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray_autolrs.algorithm.records import Record


@dataclass(frozen=True, slots=True)
class Costs:
    """Steps and seconds of a run or of one stage.

    Attributes:
        probe_steps: optimizer steps of probes, diverged ones included.
        apply_steps: optimizer steps of the trained model.
        lost_steps: optimizer steps of stages that diverged or were repeated after a restart.
        probe_s: seconds in probes.
        apply_s: seconds in applied stages, evaluations and lost steps included.
    """

    probe_steps: int = 0
    apply_steps: int = 0
    lost_steps: int = 0
    probe_s: float = 0.0
    apply_s: float = 0.0

    @property
    def search_fraction(self) -> float:
        """Probe and lost steps as a fraction of the applied steps."""
        return (self.probe_steps + self.lost_steps) / max(1, self.apply_steps)


def count_costs(records: Iterable[Record], stage: int | None = None) -> Costs:
    """Add up the costs of a log, or of one stage of it.

    A stage that was applied again after a restart counts once as applied: its earlier steps
    were lost.
    """
    probe_steps = apply_steps = lost_steps = 0
    probe_s = apply_s = 0.0
    last_applied: dict[int, int] = {}
    for record in records:
        if stage is not None and record.get("stage") != stage:
            continue
        if record["kind"] == "probe":
            probe_steps += record["steps"]
            probe_s += record["wall_s"]
        elif record["kind"] == "apply":
            apply_s += record["wall_s"]
            if record["diverged"]:
                lost_steps += record["steps"]
            else:
                lost_steps += last_applied.get(record["stage"], 0)
                last_applied[record["stage"]] = record["steps"]
    apply_steps = sum(last_applied.values())
    return Costs(probe_steps, apply_steps, lost_steps, probe_s, apply_s)
