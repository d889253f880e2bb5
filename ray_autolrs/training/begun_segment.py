"""A probe or a stage of which the first steps are taken: what is known of them, and their end.

What a checkpoint within a stage holds, and what is kept of a probe that a stage may go on from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ray_autolrs.algorithm.stages.messages import Address, Apply, Probe, address_of
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.snapshot import Snapshot

Evaluations = tuple[tuple[int, dict[str, float]], ...]
"""Validation means, by the number of steps after which they were taken."""


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """What is known of a segment's first steps.

    Attributes:
        losses: training loss of each.
        evaluations: those among them.
        skipped: numbers of those that were left out, from 0.
        reused_steps: the first ones that a probe had taken.
        wall_s: seconds that they took.
    """

    losses: tuple[float, ...] = ()
    evaluations: Evaluations = ()
    skipped: frozenset[int] = frozenset()
    reused_steps: int = 0
    wall_s: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": [[steps, dict(means)] for steps, means in self.evaluations],
            "skipped": sorted(self.skipped),
            "reused_steps": self.reused_steps,
            "wall_s": self.wall_s,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> KnownSteps:
        """Return what :meth:`to_plain` was called of."""
        evaluations = tuple((steps, dict(means)) for steps, means in plain["evaluations"])
        return cls(
            losses=tuple(plain["losses"].tolist()),
            evaluations=evaluations,
            skipped=frozenset(plain["skipped"]),
            reused_steps=plain["reused_steps"],
            wall_s=plain["wall_s"],
        )


@dataclass(frozen=True, slots=True)
class BegunSegment:
    """A segment that can be gone on with.

    Attributes:
        name: of the command, by :func:`command_name`.
        known: of its first steps.
        end: the state after them.
        best: an applied stage's best weights so far, if any are better than all before it.
    """

    name: dict[str, Any]
    known: KnownSteps
    end: Snapshot
    best: BestWeights = field(default_factory=BestWeights)

    @property
    def address(self) -> Address:
        """The command's address."""
        kind, stage, number = self.name["address"]
        return kind, stage, number


def command_name(command: Probe | Apply) -> dict[str, Any]:
    """Return what tells a command from all others, those of other runs too, as plain data."""
    return {"address": [*address_of(command)], "segment": command.segment.to_dict()}
