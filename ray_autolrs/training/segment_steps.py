"""The steps of a segment, looked at now and then, with bad batches told from a bad LR."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.training.bad_batches import UNCOUNTED, examine, fault_message, no_label
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.sharding import whole
from ray_autolrs.training.snapshot import Snapshot

MOST_BAD_STEPS = 10
"""So many bad steps one after the other are no spike: the run ends, also if it may skip."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Why losses are not finite.

    Attributes:
        is_uncounted: only micro-batches without a counted label lack a loss; training is sound.
        bad: number of a step in the segment that is bad at good weights, if there is one.
        fault: what is bad about it.
    """

    is_uncounted: bool = False
    bad: int | None = None
    fault: str = ""


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
        self._is_own_good = False
        self.skipped = skipped
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
                skipped = len(self.skipped)
                latest = self._losses_since_look(done)
                self._looked, self._latest = done, latest[-1:]
                yield done, latest
                if len(self.skipped) > skipped:
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
            if finite and not (self._skips and not self._weights_are_finite()):
                break
            if not self._replica.can_look_back:
                return latest
            verdict = self._judged(first, done)
            if verdict.is_uncounted:
                latest = self._filled(self._counted_means(first, done), first)
                break
            if verdict.bad is None:
                return latest
            self._raise_if_bad(verdict)
            self._leave_out(verdict, first, done)
        if self._skips:
            self._keep(done)
        return latest

    def _keep(self, done: int) -> None:
        if not self._is_own_good:  # The segment's own snapshot stays as it is.
            self._good, self._is_own_good = Snapshot(), True
        self._good.capture(self._replica, self._step(done))

    def _leave_out(self, verdict: _Verdict, first: int, done: int) -> None:
        """Take the steps since the last look again, without the bad ones."""
        assert verdict.bad is not None
        self.skipped.add(verdict.bad)
        latest = {verdict.bad - back for back in range(MOST_BAD_STEPS)}
        nothing_before = not self._latest and self.skipped >= {*range(first, done)}
        if latest <= self.skipped or nothing_before:
            fault = f"{verdict.fault}; and so it was in each of the {len(self.skipped)} before"
            raise ValueError(fault_message(self._engine, self._step(verdict.bad), fault))
        self._good.restore(self._replica)
        for number in range(first, done):
            if number in self.skipped:
                self._table[number] = 0.0
            else:
                assert [*self._steps(number, number + 1)] == [number + 1]

    def _raise_if_bad(self, verdict: _Verdict) -> None:
        if verdict.bad is not None and not self._skips:
            raise ValueError(fault_message(self._engine, self._step(verdict.bad), verdict.fault))

    def _step(self, number: int) -> int:
        return self._segment.first_step + number

    def _filled(self, losses: list[float], first: int) -> list[float]:
        """Return losses with those of skipped steps replaced by their neighbours'."""
        if not self.skipped:
            return losses
        kept = [loss for n, loss in enumerate(losses, first) if n not in self.skipped]
        latest = (self._latest or kept)[0]
        filled: list[float] = []
        for number, loss in enumerate(losses, first):
            latest = latest if number in self.skipped else loss
            filled.append(latest)
        return filled

    def _counted_means(self, first: int, done: int) -> list[float]:
        rows = self._engine.micro_losses(self._table[first:done], self._share.group)
        means: list[float] = rows.nanmean(dim=1).tolist()
        return means

    def _weights_are_finite(self) -> bool:
        norm = nn.utils.get_total_norm([*self._replica.module.parameters()])
        return bool(whole(norm).isfinite())

    def _judged(self, first: int, done: int) -> _Verdict:
        """Find out why the losses of steps ``first`` to before ``done`` are not finite.

        Rank 0 looks, at all micro-batches by itself, and its word counts for all workers; of a
        sharded model all look together, and find the same. Who looks is in the state that it was
        in if only micro-batches without a counted label lack a loss.
        """
        rows = self._engine.micro_losses(self._table[first:done], self._share.group)
        looks = self._share.group.rank == 0 or self._replica.is_sharded
        found = self._looked_back(first, done, rows) if looks else None
        verdict: _Verdict = self._share.group.broadcast_object(found)
        return verdict

    def _looked_back(self, first: int, done: int, rows: torch.Tensor) -> _Verdict:
        here: Snapshot | None = None
        if not rows.isinf().any() and self._weights_are_finite():
            here = Snapshot()
            here.capture(self._replica, self._step(done))
        self._good.restore(self._replica)
        bad_rows: list[int] = (~rows.isfinite()).any(dim=1).nonzero().flatten().tolist()
        bad_rows = [row for row in bad_rows if first + row not in self.skipped]
        for row in bad_rows:
            micros: list[int] = (~rows[row].isfinite()).nonzero().flatten().tolist()
            found = [examine(self._engine, self._step(first + row), micro) for micro in micros]
            faults = [fault for fault in found if fault not in (None, UNCOUNTED)]
            if faults and faults[0] is not None:
                return _Verdict(bad=first + row, fault=faults[0])
            if None in found:
                break
            if len(micros) == rows.shape[1]:
                fault = no_label(self._engine, self._step(first + row))
                return _Verdict(bad=first + row, fault=fault)
        else:
            if bad_rows and here is not None:
                here.restore(self._replica)
                return _Verdict(is_uncounted=True)
        # A gradient that is not finite shows in the loss of the next step.
        before = (first + bad_rows[0] if bad_rows else done) - 1
        while before in self.skipped:
            before -= 1
        if before < 0:
            return _Verdict()
        for micro in range(rows.shape[1] if rows.ndim == 2 else 1):
            fault = examine(self._engine, self._step(before), micro) or UNCOUNTED
            if fault != UNCOUNTED:
                return _Verdict(bad=before, fault=fault)
        return _Verdict()
