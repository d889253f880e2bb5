"""How long a search took and was expected to take, and how long it is until the next one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.algorithm.stages.phases import Applying, Finished, RunState, WarmingUp
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.cluster.lanes.leases import GROUP_LANE
from ray_autolrs.sinks.sink import Status


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the holder of probe actors goes by.

    Attributes:
        next_search_s: seconds until the next search that is expected; 0 during one, infinite if
            there is none in sight.
        actors: lanes besides the workers that have asked for a probe.
    """

    next_search_s: float
    actors: int


def next_search_s(plan: RunPlan, state: RunState, status: Status, elapsed_s: float) -> float:
    """Return the seconds until the next expected search, as for :class:`Outlook`.

    Args:
        plan: of the run.
        state: of the machine.
        status: what the workers do.
        elapsed_s: seconds since they were told to.
    """
    match state.phase:
        case Finished():
            return math.inf
        case Applying(stage):
            following = plan.stage_after(stage)
        case WarmingUp():
            following = plan.stage_after(None)
        case _:
            return 0.0
    if following is None or plan.search.expected_rounds(following.number, lanes=1) == 0:
        return math.inf
    if not isinstance(status.command, Apply) or status.steps_done == 0:
        return 0.0  # How fast a step is will be known soon.
    return elapsed_s / status.steps_done * (status.command.steps - status.steps_done)


def search_times(plan: RunPlan, records: Sequence[Record], num_workers: int, now: float) -> Record:
    """Return what a search took and was expected to take; nothing where no probe was run.

    Args:
        plan: of the run.
        records: its log, up to the end of the search.
        num_workers: training workers.
        now: the time, as in the records.

    Returns:
        ``search_s``, since the workers were told to search; ``lanes``, those that ran probes, the
        workers together being one; ``expected_s`` with so many lanes, and ``together_s`` by the
        workers together, from how long a probe took.
    """
    begins = [n for n, record in enumerate(records) if record["kind"] in ("ready", "apply")]
    begun = records[begins[-1]] if begins else {}
    ran = [
        record
        for record in records[begins[-1] + 1 if begins else 0 :]
        if record["kind"] == "foreseen"
        or (record["kind"] == "probe" and not record.get("foreseen", False))
    ]
    if not ran or "time" not in begun:
        return {}
    stage, lanes = ran[-1]["stage"], {record["lane"] for record in ran}
    probe_s = statistics.fmean(record["wall_s"] for record in ran)
    unit_s = probe_s if lanes == {GROUP_LANE} else probe_s / num_workers
    return {
        "search_s": now - begun["time"],
        "lanes": len(lanes),
        "expected_s": plan.search.expected_rounds(stage, len(lanes)) * probe_s,
        "together_s": plan.search.expected_rounds(stage, 1) * unit_s,
    }
