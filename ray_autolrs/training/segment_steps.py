"""The steps of a segment, looked at now and then, with bad batches told from a bad LR."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator

import torch

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.training.bad_batches import fault_message
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.verdict import Inquest, Verdict, weights_are_finite

MOST_BAD_STEPS = 10
"""So many bad steps one after the other are no spike: the run ends, also if it may skip. So many
that the gradient scaler has left out are a divergence."""


SPIKE_FACTOR = 10.0
"""A step is a spike if the 2-norm of its gradient is so many times the median of those since the
last look at the losses; steps are left out for it where bad batches may be skipped. Ours."""

LEAST_COMPARED = 5
"""Steps that a median is taken of, at least."""


class SegmentSteps:
    """Takes a segment's steps from the state that the replica is in.

    Args:
        engine: takes the steps.
        segment: their LRs.
        share: who takes them.
        good: the state before the segment's first step, whose weights are good.
        losses: of the segment's steps that are taken already.
        look_steps: after which numbers of steps the losses are looked at; the last is one of them.
        skipped: numbers, in the segment, of the steps that were left out; more are put in.
        overflows: see below, of the steps that are taken already.

    Attributes:
        overflows: steps up to now that the gradient scaler has left out, one after the other.
    """

    def __init__(
        self,
        engine: Engine,
        segment: Segment,
        share: Share,
        good: Snapshot,
        losses: Collection[float],
        look_steps: Collection[int],
        skipped: set[int],
        overflows: int = 0,
    ) -> None:
        self._engine = engine
        self._replica = engine.replica
        self._segment = segment
        self._share = share
        self._good = good
        self._skips = self._replica.task.on_bad_batch == "skip" and self._replica.can_look_back
        self._taken = self._looked = len(losses)
        self._latest = [*losses][-1:]
        self._look_steps = look_steps
        self._table = engine.loss_table(segment.steps)
        self._is_own_good = self._was_taken_again = False
        self.overflows = overflows
        self.skipped = skipped
        self._replica.gradient_norms = {} if self._skips else None
        if self._skips and losses:
            self._keep(len(losses))

    def looks(self) -> Iterator[tuple[int, list[float]]]:
        """Take the steps, and yield at each look how many are done, and the losses since the last.

        The losses of a micro-batch without a counted label are left out of a step's mean. A
        skipped step has the loss of the step before it.

        Raises:
            ValueError: a step's batch is bad, and the task does not skip it.
        """
        while self._taken < self._segment.steps:
            for done in self._steps(self._taken, self._segment.steps):
                if done not in self._look_steps:
                    continue
                self._was_taken_again = False
                latest = self._losses_since_look(done)
                self._looked, self._latest = done, latest[-1:]
                yield done, latest
                if self._was_taken_again:
                    self._taken = done
                    break  # Steps were taken again, so that the loader stands elsewhere.
            else:
                return

    def check_validation(self, evaluation: Evaluation, done: int) -> None:
        """Refuse validation data whose loss is not finite before the segment either.

        Call it after an evaluation that was not finite. It leaves the replica in the good state.

        Raises:
            ValueError: the data, or the latest step's batch, is bad.
        """
        if not self._replica.can_look_back:
            return
        group = self._share.group
        if done > 0:
            self._raise_if_bad(self._judged(done, done))
        self._good.restore(self._replica)
        with self._engine.averaged(self._good.step, group):
            samples = evaluation.bad_samples(self._replica, group)
        if samples is not None:
            name = type(self._replica.task).__name__
            raise ValueError(
                f"the validation loss after step {self._segment.first_step + done} is not finite, "
                "and the LR is not at fault: nor is it at the weights before this LR was used. The "
                f"data or the model is broken: mend {name}.val_dataset (the first batch at fault "
                f"has its samples {samples}) or {name}.loss"
            )

    def _steps(self, first: int, last: int) -> Iterator[int]:
        """Take the segment's steps from ``first`` to before ``last``; yield how many are done."""
        taken = self._engine.steps(
            self._segment.first_step + first,
            last - first,
            self._segment.lr_at,
            self._table[first:],
            share=self._share,
        )
        for number in taken:
            yield first + number

    def _losses_since_look(self, done: int) -> list[float]:
        first, group = self._looked, self._share.group
        while True:
            latest = self._engine.mean_losses(self._table[first:done], group)
            latest = self._filled(latest, first)
            finite = all(map(math.isfinite, latest))
            if finite and not (self._skips and not weights_are_finite(self._engine)):
                spike = self._spike(first, done)
                if spike is None:
                    self.overflows = 0
                    break
                self._leave_out(Verdict(bad=spike), done)
                continue
            if not self._replica.can_look_back:
                return latest
            verdict = self._judged(first, done)
            if verdict.is_uncounted and not self._replica.rescales_uncounted:
                self._replica.rescales_uncounted = True
                self._take_again(done)
                continue
            if verdict.is_uncounted:
                latest = self._filled(self._counted_means(first, done), first)
                break
            if verdict.is_left_out and self._passes_by(latest):
                overflowed = [n for n, loss in enumerate(latest, first) if not math.isfinite(loss)]
                latest = self._filled(latest, first, overflowed)
                break
            if verdict.bad is None:
                return latest
            self._raise_if_bad(verdict)
            self._leave_out(verdict, done)
        if self._skips:
            self._keep(done)
        return latest

    def _passes_by(self, losses: list[float]) -> bool:
        """Count the steps that the gradient scaler left out; tell whether they are too few yet."""
        for loss in losses:
            self.overflows = 0 if math.isfinite(loss) else self.overflows + 1
            if self.overflows == MOST_BAD_STEPS:
                return False
        return bool(self._latest) or any(map(math.isfinite, losses))

    def _keep(self, done: int) -> None:
        if not self._is_own_good:  # The segment's own snapshot stays as it is.
            self._good, self._is_own_good = Snapshot(), True
        self._good.capture(self._replica, self._step(done))

    def _spike(self, first: int, done: int) -> int | None:
        """Return the first step since the last look whose gradient is far above the median.

        Many of them one after the other are no spike.
        """
        norms = self._replica.gradient_norms
        kept = [number for number in range(first, done) if number not in self.skipped]
        if norms is None or len(kept) < LEAST_COMPARED:
            return None
        values: list[float] = torch.stack([norms[self._step(n)] for n in kept]).tolist()
        limit = SPIKE_FACTOR * statistics.median(values)
        spikes = [n for n, value in zip(kept, values, strict=True) if value > limit]
        shared: list[int] = self._share.group.broadcast_object(spikes)
        return next((n for n in shared if not self.skipped >= _streak(n) - {n}), None)

    def _leave_out(self, verdict: Verdict, done: int) -> None:
        """Take the steps since the good state again, without the bad ones."""
        assert verdict.bad is not None
        self.skipped.add(verdict.bad)
        nothing_before = not self._latest and self.skipped >= {*range(self._looked, done)}
        if verdict.fault and (self.skipped >= _streak(verdict.bad) or nothing_before):
            fault = f"{verdict.fault}; and so it was in each of the {len(self.skipped)} before"
            raise ValueError(fault_message(self._engine, self._step(verdict.bad), fault))
        self._take_again(done)

    def _take_again(self, done: int) -> None:
        self._was_taken_again = True
        for number in range(self._good.restore(self._replica) - self._segment.first_step, done):
            if number in self.skipped:
                self._table[number] = 0.0
            else:
                assert [*self._steps(number, number + 1)] == [number + 1]

    def _raise_if_bad(self, verdict: Verdict) -> None:
        if verdict.bad is not None and not self._skips:
            raise ValueError(fault_message(self._engine, self._step(verdict.bad), verdict.fault))

    def _step(self, number: int) -> int:
        return self._segment.first_step + number

    def _filled(
        self, losses: list[float], first: int, overflowed: Collection[int] = ()
    ) -> list[float]:
        """Return losses with those of steps that were left out replaced by their neighbours'."""
        left_out = self.skipped.union(overflowed)
        if not left_out:
            return losses
        kept = [loss for n, loss in enumerate(losses, first) if n not in left_out]
        latest = (self._latest or kept)[0]
        filled: list[float] = []
        for number, loss in enumerate(losses, first):
            latest = latest if number in left_out else loss
            filled.append(latest)
        return filled

    def _counted_means(self, first: int, done: int) -> list[float]:
        rows = self._engine.micro_losses(self._table[first:done], self._share.group)
        means: list[float] = rows.nanmean(dim=1).tolist()
        return means

    def _judged(self, first: int, done: int) -> Verdict:
        """Find out why the losses of steps ``first`` to before ``done`` are not finite."""
        inquest = Inquest(
            self._engine, self._share, self._good, self._segment.first_step, self.skipped
        )
        return inquest.judge(self._table[first:done], first, done)


def _streak(number: int) -> set[int]:
    """Return a step and those before it that would make it one too many."""
    return {number - back for back in range(MOST_BAD_STEPS)}
