"""Which lanes a run uses: decided once, before it starts, from its settings and the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ray_autolrs.algorithm.stages.rules import most_parallel_probes
from ray_autolrs.config import AutoLRSConfig

LaneKind = Literal["sequential", "workers", "actors"]


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """The lanes of a run.

    Attributes:
        kind: who runs probes.
        actors: actors besides the workers.
        resources_per_actor: what each of them holds.
        parallel_probes: probes at the same time, which the search's batches are made for.
        reason: why, for the log.
    """

    kind: LaneKind
    actors: int
    resources_per_actor: dict[str, float]
    parallel_probes: int
    reason: str


def choose_lanes(
    config: AutoLRSConfig,
    num_workers: int,
    resources_per_worker: Mapping[str, float],
    available: Mapping[str, float],
    limits: Mapping[str, float],
    *,
    autoscales: bool,
) -> LaneChoice:
    """Decide who runs the probes.

    Args:
        config: the run's settings.
        num_workers: training workers.
        resources_per_worker: what each of them holds.
        available: what is free now, the workers not yet placed.
        limits: what the cluster can ever hold.
        autoscales: whether the cluster can grow beyond what it holds now.

    Raises:
        ValueError: more actors are asked for than the cluster can ever hold.
    """
    per_actor = dict(config.resources_per_probe_actor or resources_per_worker)
    taken = {name: amount * num_workers for name, amount in resources_per_worker.items()}
    free = _how_many(per_actor, available, taken)
    most = _how_many(per_actor, limits, taken)
    probes = most_parallel_probes(config)

    def choice(kind: LaneKind, actors: int, reason: str) -> LaneChoice:
        lanes = {"sequential": 1, "workers": num_workers, "actors": num_workers + actors}[kind]
        return LaneChoice(kind, actors, per_actor, min(lanes, probes), reason)

    if config.probe_actors is not None and config.probe_actors > most:
        raise ValueError(
            f"probe_actors={config.probe_actors} of {_amounts(per_actor)} each do not fit: beside "
            f"{num_workers} workers the cluster can hold {most}; ask for fewer, or set "
            "resources_per_probe_actor"
        )
    if config.probe_lanes == "sequential":
        return choice("sequential", 0, "probe_lanes='sequential'")
    if config.probe_lanes == "workers":
        return choice("workers", 0, "probe_lanes='workers'")
    if config.probe_actors is not None:
        actors = config.probe_actors
    else:
        actors = min(most if autoscales else free, max(0, probes - num_workers))
    if config.probe_lanes == "actors":
        return choice("actors", actors, f"probe_lanes='actors', {free} actors fit now")
    if actors > 0:
        return choice("actors", actors, f"{free} actors of {_amounts(per_actor)} fit now")
    if num_workers > 1:
        return choice("workers", 0, f"no room for an actor of {_amounts(per_actor)}")
    return choice("sequential", 0, "one worker, and no room for an actor")


def _how_many(
    each: Mapping[str, float], available: Mapping[str, float], taken: Mapping[str, float]
) -> int:
    """Return how many fit into what is left."""
    left = {name: available.get(name, 0.0) - taken.get(name, 0.0) for name in each}
    # A millionth of slack: fractions such as 0.1 are not exact.
    return max(0, min(int(left[name] / amount + 1e-6) for name, amount in each.items()))


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
