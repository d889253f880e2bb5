"""How a run is cut into stages.

Symbols
    τ    steps of a stage: 1000 at first, doubled after each stage until τ_max (the paper)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_autolrs.algorithm.field_checks import check, check_integer


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """The lengths of a run's stages.

    Raises:
        ValueError: a field is out of its range, or the longest stage is shorter than the first.
    """

    first_steps: int | None = None
    """Applied steps in the first stage (τ at the start). None is 6% of the run, or 1000 without an
    end. The paper's is 1000 (published code)."""

    longest_steps: int | None = None
    """Applied steps in a stage once stages stop growing (τ_max). None is a quarter of the run, or
    1000. The paper's is 8000 (published code)."""

    growth: int = 2
    """Factor by which a stage is longer than the one before. Source: the published code."""

    def __post_init__(self) -> None:
        check_integer(self, "first_steps", minimum=1, optional=True)
        check_integer(self, "longest_steps", minimum=1, optional=True)
        check_integer(self, "growth", minimum=1)
        first, longest = self.first_steps, self.longest_steps
        if first is not None and longest is not None:
            rule = f"must be at least first_steps={first}"
            check(self, "longest_steps", longest >= first, rule)
            rule = f"must equal first_steps={first} when growth=1"
            check(self, "longest_steps", self.growth > 1 or longest == first, rule)

    def resolve(self, total_steps: int | None) -> Stages:
        """Return the stages with both lengths filled in.

        >>> Stages().resolve(2000)
        Stages(first_steps=120, longest_steps=500, growth=2)
        """
        first, longest = self.first_steps, self.longest_steps
        if first is None:
            first = 1000
            if total_steps is not None:
                first = max(round(0.06 * total_steps), min(total_steps, 20))
        if longest is None:
            quarter = 1000 if total_steps is None else total_steps // 4
            longest = first if self.growth == 1 else max(quarter, first)
        return replace(self, first_steps=first, longest_steps=longest)

    def planned_steps(self, number: int) -> int:
        """Return τ of a stage, from 1, before the run's end cuts or stretches it."""
        steps, longest = self.first_steps, self.longest_steps
        assert steps is not None, self
        assert longest is not None, self
        for _ in range(number - 1):
            if steps >= longest:
                break
            steps *= self.growth
        return min(steps, longest)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a range of applied steps that gets one LR.

    Attributes:
        number: 1 for the first stage.
        first_step: applied step that it starts at.
        steps: applied steps in it (τ).
        grows: whether stages still grow: no stage of the longest length came before it.
    """

    number: int
    first_step: int
    steps: int
    grows: bool = True

    @property
    def last_step(self) -> int:
        """The last applied step in it."""
        return self.first_step + self.steps - 1


def next_stage(
    stages: Stages, total_steps: int | None, previous: Stage | None, *, first_step: int = 0
) -> Stage | None:
    """Return the stage that follows ``previous``, or None where the run ends.

    Without a known end there is always another.

    A departure of ours: a rest shorter than the first stage is no stage of its own but lengthens
    the one before it, and the last stage is as long as what is left, so that a run has exactly
    ``total_steps`` applied steps.

    Args:
        stages: the resolved lengths.
        total_steps: applied steps of the run, or None.
        previous: the stage before; None asks for the first.
        first_step: applied step that the first stage starts at.
    """
    number = 1 if previous is None else previous.number + 1
    first_step = first_step if previous is None else previous.last_step + 1
    steps = stages.planned_steps(number)
    if total_steps is not None:
        left = total_steps - first_step
        if left == 0:
            return None
        shortest = stages.planned_steps(1)
        assert left >= shortest, (stages, total_steps, previous)
        steps = left if left - steps < shortest else steps
    grows = number == 1 or stages.planned_steps(number - 1) != stages.longest_steps
    return Stage(number, first_step, steps, grows)


def closing_stage(previous: Stage, decay_fraction: float) -> Stage | None:
    """Return the stage that a run without a known end falls in, or None where it does not fall.

    The fall takes ``decay_fraction`` of the finished run.
    """
    if decay_fraction == 0:
        return None
    done = previous.last_step + 1
    steps = max(1, round(done * (decay_fraction / (1 - decay_fraction))))
    return Stage(previous.number + 1, done, steps, previous.grows)


def plan_stages(stages: Stages, total_steps: int, *, first_step: int = 0) -> tuple[Stage, ...]:
    """Return every stage of a run whose end is known; arguments as :func:`next_stage`.

    >>> paper = Stages(first_steps=1000, longest_steps=8000)
    >>> [(stage.first_step, stage.steps, stage.grows) for stage in plan_stages(paper, 16_500)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [(0, 1000, True), (1000, 2000, True), (3000, 4000, True), (7000, 8000, True),
     (15000, 1500, False)]
    """
    planned: list[Stage] = []
    stage = next_stage(stages, total_steps, None, first_step=first_step)
    while stage is not None:
        planned.append(stage)
        stage = next_stage(stages, total_steps, stage)
    return tuple(planned)
