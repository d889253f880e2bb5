"""Which lanes a run uses: decided once, before it starts, from its settings and the cluster."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.cluster import lanes as folder
from ray_autolrs.cluster.lanes.expected_time import Rounds, fewest_lanes, lone_time, together_time
from ray_autolrs.cluster.lanes.lane import Lane
from ray_autolrs.cluster.lanes.sequential import Sequential
from ray_autolrs.lanes import Lanes
from ray_autolrs.training.batches import Batches
from ray_autolrs.training.lone_lanes import lone_lane_obstacle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """The lanes of a run.

    Attributes:
        lane: who runs probes.
        actors: actors besides the workers.
        resources_per_actor: what each of them holds.
        parallel_probes: probes at the same time, which the search's batches are made for.
        reason: why, for the log.
    """

    lane: Lane
    actors: int
    resources_per_actor: dict[str, float]
    parallel_probes: int
    reason: str


def lane_kinds() -> dict[str, type[Lane]]:
    """Return every kind by its name: those of this folder, and one's own that are imported."""
    for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        importlib.import_module(module.name)
    return {kind.name: kind for kind in Lane.__subclasses__()}


def check_lanes(settings: Lanes) -> None:
    """Refuse a kind that there is not, and settings that have no effect with it.

    Raises:
        ValueError: as said.
    """
    kinds = lane_kinds()
    if settings.kind == "auto":
        return
    if settings.kind not in kinds:
        raise ValueError(
            f"lanes.kind={settings.kind!r} must be 'auto' or one of {', '.join(sorted(kinds))}"
        )
    for name in ("actors", "resources"):
        value = getattr(settings, name)
        if value is not None and not kinds[settings.kind].has_actors:
            raise ValueError(f"lanes.{name}={value!r} has no effect: {settings.kind} has no actors")


def choose_lanes(
    settings: Lanes,
    search: SearchStrategy,
    num_workers: int,
    resources_per_worker: Mapping[str, float],
    available: Mapping[str, float],
    limits: Mapping[str, float],
    *,
    autoscales: bool,
) -> LaneChoice:
    """Decide who runs the probes: with ``"auto"``, who is expected to end a search first.

    Where two kinds are as fast, it is the one that needs less for it; of actors there are no more
    than make a search faster. An autoscaler is asked for nodes only if later stages are searched
    too: a single search is over before a node has started.

    Args:
        settings: what the user asks for.
        search: how stages are searched; resolved.
        num_workers: training workers.
        resources_per_worker: what each of them holds.
        available: what is free now, the workers not yet placed.
        limits: what the cluster can ever hold.
        autoscales: whether the cluster can grow beyond what it holds now.

    Raises:
        ValueError: more actors are asked for than the cluster can ever hold.
    """
    per_actor = dict(settings.resources or resources_per_worker)
    taken = {name: amount * num_workers for name, amount in resources_per_worker.items()}
    free = _how_many(per_actor, available, taken)
    most = _how_many(per_actor, limits, taken)
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in per_actor.items())
    rounds = _rounds(search)
    actors = settings.actors
    if actors is None:
        grows = autoscales and search.expected_rounds(2, lanes=1) > 0
        actors = fewest_lanes(rounds, num_workers + (most if grows else free)) - num_workers
        actors = max(0, actors)
    if actors > most:
        raise ValueError(
            f"lanes.actors={actors} of {amounts} each do not fit: beside {num_workers} workers "
            f"the cluster can hold {most}; ask for fewer, or set lanes.resources"
        )
    kinds = lane_kinds()
    times = {
        name: lone_time(rounds, num_workers, kind.count(num_workers, actors))
        if kind.is_alone
        else together_time(rounds)
        for name, kind in kinds.items()
    }
    name = settings.kind
    if name == "auto":
        needs = {each: (kind.is_alone, kind.has_actors) for each, kind in kinds.items()}
        name = min(kinds, key=lambda each: (times[each], needs[each]))
    kind = kinds[name]
    at_once = kind.count(num_workers, actors)
    return LaneChoice(
        lane=kind(),
        actors=actors if kind.has_actors else 0,
        resources_per_actor=per_actor,
        parallel_probes=max(1, min(at_once, search.most_parallel_probes)),
        reason=(
            f"lanes.kind={settings.kind!r}, {free} actors of {amounts} fit now; a search takes "
            f"{times[name]:g} times as long as one probe of all workers, {rounds(1)} by them "
            "one after the other"
        ),
    )


def _rounds(search: SearchStrategy) -> Rounds:
    """Return what a search takes, of the first stage that is searched."""
    stage = 1 if search.expected_rounds(1, lanes=1) > 0 else 2
    return lambda lanes: max(1, search.expected_rounds(stage, lanes))


def lane_in_process(settings: Lanes) -> Lane:
    """Return the lane of a run in this process, without Ray.

    Raises:
        ValueError: the kind that is asked for needs Ray workers.
    """
    lane = Sequential() if settings.kind == "auto" else lane_kinds()[settings.kind]()
    if lane.is_alone:
        raise ValueError(
            f"lanes.kind={settings.kind!r} needs Ray workers, and num_workers=0 trains in this "
            "process; use lanes.kind='sequential'"
        )
    return lane


def possible_lane(
    lane: Lane, settings: Lanes, module: nn.Module, batches: Batches | None = None
) -> Lane:
    """Return the lane that a model and its training batches allow; it is the same on every worker.

    Raises:
        ValueError: the model cannot be probed by one process alone on these batches, and the
            kind that is asked for does.
    """
    obstacle = lone_lane_obstacle(module, batches) if lane.is_alone else None
    if obstacle is None:
        return lane
    if settings.kind != "auto":
        raise ValueError(
            f"lanes.kind={settings.kind!r} needs workers that can train alone, and {obstacle}; "
            "use lanes.kind='sequential'"
        )
    logger.warning("probes run one after the other, on all workers: %s", obstacle)
    return Sequential()


def _how_many(
    each: Mapping[str, float], available: Mapping[str, float], taken: Mapping[str, float]
) -> int:
    """Return how many fit into what is left."""
    left = {name: available.get(name, 0.0) - taken.get(name, 0.0) for name in each}
    # A millionth of slack: fractions such as 0.1 are not exact.
    return max(0, min(int(left[name] / amount + 1e-6) for name, amount in each.items()))
