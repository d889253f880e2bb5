"""Who runs the probes of a stage: what a user sets of it. It imports without Ray and torch."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.field_checks import check, check_integer, is_number, plain

WITHOUT_ACTORS = ("sequential", "workers")
"""Kinds that have none. The trainer asks every kind, one's own too; these are refused here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lanes:
    """Who runs probes, and on what resources.

    Raises:
        ValueError: a field is out of its range, or has no effect with the kind.
    """

    kind: str = "auto"
    """``"sequential"``, all workers together, one probe after the other; ``"workers"``, each
    training worker by itself; ``"actors"``, the workers and further actors on free resources;
    ``"auto"`` takes what is expected to search fastest, of what the cluster and the model allow.
    Each is a file of ``cluster/lanes/``; a kind that is not there is refused by the trainer."""

    actors: int | None = None
    """Actors besides the workers. None takes of what is free when the run starts as many as make a
    search faster, and lets an autoscaler bring them if more than one stage is searched. They are
    given back while no search is in sight."""

    resources: dict[str, float] | None = None
    """What an actor holds, such as ``{"CPU": 1, "GPU": 0.5}``. None is what a worker holds."""

    def __post_init__(self) -> None:
        check(self, "kind", isinstance(self.kind, str), "must be the name of a kind, or 'auto'")
        for name in ("actors", "resources"):
            has_effect = getattr(self, name) is None or self.kind not in WITHOUT_ACTORS
            check(self, name, has_effect, f"has no effect with kind={self.kind!r}; use 'actors'")
        check_integer(self, "actors", minimum=0 if self.kind == "auto" else 1, optional=True)
        if self.resources is not None:
            holds = isinstance(self.resources, dict) and len(self.resources) > 0
            if holds:
                amounts = {name: plain(amount) for name, amount in self.resources.items()}
                object.__setattr__(self, "resources", amounts)
                holds = all(
                    isinstance(name, str) and is_number(amount) and amount > 0
                    for name, amount in amounts.items()
                )
            check(self, "resources", holds, 'must name positive amounts, such as {"CPU": 1}')
