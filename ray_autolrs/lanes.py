"""Who runs the probes of a stage: what a user sets of it. It imports without Ray and torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ray_autolrs.algorithm.field_checks import check, check_choice, check_integer

LanesKind = Literal["auto", "sequential", "workers", "actors"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lanes:
    """Who runs probes, and on what resources.

    Raises:
        ValueError: a field is out of its range, or has no effect with the kind.
    """

    kind: LanesKind = "auto"
    """``"sequential"``, all workers together, one probe after the other; ``"workers"``, each
    training worker by itself; ``"actors"``, the workers and further actors on free resources;
    ``"auto"`` takes what the cluster and the model allow."""

    actors: int | None = None
    """Actors besides the workers. None takes what is free when the run starts, and lets an
    autoscaler bring more, up to one lane for each probe of a stage."""

    resources: dict[str, float] | None = None
    """What an actor holds, such as ``{"CPU": 1, "GPU": 0.5}``. None is what a worker holds."""

    def __post_init__(self) -> None:
        check_choice(self, "kind", get_args(LanesKind))
        uses_actors = self.kind in ("auto", "actors")
        for name in ("actors", "resources"):
            is_set = getattr(self, name) is not None
            check(self, name, uses_actors or not is_set, "needs kind='actors' or 'auto'")
        check_integer(self, "actors", minimum=0 if self.kind == "auto" else 1, optional=True)
        if self.resources is not None:
            amounts = self.resources.values()
            holds = len(amounts) > 0 and all(amount > 0 for amount in amounts)
            check(self, "resources", holds, 'must name positive amounts, such as {"CPU": 1}')
