"""One probe or one applied stage, from its snapshot or from where it stopped, to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.begun_segment import BegunSegment, KnownSteps
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.segment_steps import SegmentSteps
from ray_autolrs.training.snapshot import Snapshot

Progress = Callable[[int, float], None]
"""Told (steps done in a segment, loss of the last one) at each look at the losses."""


class SegmentKeeper(Protocol):
    """Keeps now and then how far a segment is."""

    def look(self, run: SegmentRun, done: int) -> None:
        """Keep a segment, if it is time. All workers call it at each look but the last.

        Args:
            run: the segment; the replica is in the state after ``done`` steps.
            done: steps that are taken.
        """


class SegmentRun:
    """Takes a segment's steps, and stops early if the loss diverges.

    Args:
        engine: takes the steps.
        start: the state before them.
        command: the probe or stage.
        evaluation: what to run after the steps, counted from 1, in ``eval_steps``; of a stage
            with the task's metrics.
        eval_steps: see ``evaluation``.
        look_every: steps between looks at the losses.
        share: who takes the steps.
        best: offered the weights of each evaluation, if anything is.
        begun: the segment's first steps, which are not taken again.
        keeper: keeps how far it is, if anybody does.

    Attributes:
        command: as given.
        best: as given.
        begun_steps: how many of its steps are not taken again.
    """

    def __init__(
        self,
        engine: Engine,
        start: Snapshot,
        command: Probe | Apply,
        evaluation: Evaluation,
        eval_steps: frozenset[int],
        *,
        look_every: int,
        share: Share,
        best: BestWeights | None = None,
        begun: BegunSegment | None = None,
        keeper: SegmentKeeper | None = None,
    ) -> None:
        self.command = command
        self.best = best
        self._engine = engine
        self._start = start
        self._evaluation = evaluation
        self._eval_steps = eval_steps
        self._look_every = look_every
        self._share = share
        self._begun_at = begun.end if begun is not None else None
        self._keeper = keeper
        known = begun.known if begun is not None else KnownSteps()
        self.begun_steps = len(known.losses)
        self._losses = [*known.losses]
        self._evaluations = [*known.evaluations]
        self._skipped = set(known.skipped)
        self._reused_steps = known.reused_steps
        self._started_s = time.perf_counter() - known.wall_s

    @property
    def known(self) -> KnownSteps:
        """What is known of the steps that were looked at."""
        return KnownSteps(
            losses=tuple(self._losses),
            evaluations=tuple(self._evaluations),
            skipped=frozenset(self._skipped),
            reused_steps=self._reused_steps,
            wall_s=time.perf_counter() - self._started_s,
        )

    def loss_after(self, done: int) -> float | None:
        """Return the validation loss after so many steps, if the latest one was taken there."""
        steps, means = self._evaluations[-1] if self._evaluations else (-1, {})
        return means["loss"] if steps == done else None

    def best_so_far(self) -> BestWeights:
        """Return the best weights among its evaluations, as they are now."""
        best = BestWeights()
        if self.best is not None:
            best.take(self.best)
        return best

    def to_its_end(self, progress: Progress) -> bool:
        """Take the steps that are left, and return whether the segment diverged."""
        engine, segment = self._engine, self.command.segment
        first_step = self._start.restore(engine.replica)
        assert first_step == segment.first_step, (first_step, segment)
        is_probe = isinstance(self.command, Probe)
        engine.batches.begin(first_step, segment.last_step + 1, is_probe=is_probe)
        if engine.rehearse(first_step, self._share):
            self._start.restore(engine.replica)
        if self._begun_at is not None:
            self._begun_at.restore(engine.replica)
            self._begun_at = None  # It may hold much memory.
        taken, every = self.begun_steps, self._look_every
        looks = {*range(every, segment.steps, every), segment.steps, *self._eval_steps}
        steps = SegmentSteps(
            engine, segment, self._share, self._start, self._losses, looks, self._skipped
        )
        evaluated = {done for done, _ in self._evaluations}
        if taken in self._eval_steps - evaluated and not math.isfinite(self._evaluate(taken)):
            steps.check_validation(self._evaluation, taken)
            return True
        for done, latest in steps.looks():
            latest_loss = self._evaluate(done) if done in self._eval_steps else latest[-1]
            self._losses += latest
            progress(done, latest_loss)
            if not all(map(math.isfinite, latest)):
                return True
            if not math.isfinite(latest_loss):
                steps.check_validation(self._evaluation, done)
                return True
            if self._keeper is not None and done < segment.steps:
                self._keeper.look(self, done)
        return False

    def _evaluate(self, done: int) -> float:
        """Evaluate after so many steps, and return the loss."""
        engine, group = self._engine, self._share.group
        step = self.command.segment.first_step + done
        with engine.averaged(step, group):
            with_metrics = isinstance(self.command, Apply)
            means = self._evaluation.run(engine.replica, group, with_metrics=with_metrics)
            if self.best is not None:
                self.best.offer(engine.replica.module, step, means["loss"])
        self._evaluations.append((done, means))
        return means["loss"]
