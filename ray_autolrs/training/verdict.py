"""Why losses are not finite: each worker looks at its own micro-batches again at good weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from ray_autolrs.training.bad_batches import UNCOUNTED, examine_together, no_label
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.sharding import whole
from ray_autolrs.training.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why losses are not finite.

    Attributes:
        is_uncounted: only micro-batches without a counted label lack a loss; training is sound.
        is_left_out: the gradient scaler has left these steps out, and the weights are finite.
        bad: number of a step in the segment that is bad at good weights, if there is one.
        fault: what is bad about it.
    """

    is_uncounted: bool = False
    is_left_out: bool = False
    bad: int | None = None
    fault: str = ""


def weights_are_finite(engine: Engine) -> bool:
    """Return whether every weight is. It waits for the device."""
    norm = nn.utils.get_total_norm([*engine.replica.module.parameters()])
    return bool(whole(norm).isfinite())


class Inquest:
    """Looks back at the steps of a segment; all workers do so together.

    Args:
        engine: took the steps.
        share: whose they were.
        good: the state to look at them from.
        first_step: number of the segment's first step.
        skipped: numbers, in the segment, of steps that were left out.
    """

    def __init__(
        self,
        engine: Engine,
        share: Share,
        good: Snapshot,
        first_step: int,
        skipped: Collection[int],
    ) -> None:
        self._engine = engine
        self._share = share
        self._good = good
        self._first_step = first_step
        self._skipped = skipped

    def judge(self, table: torch.Tensor, first: int, done: int) -> Verdict:
        """Find out why losses of steps ``first`` to before ``done`` of the segment are not finite.

        The replica is in the state that it was in if training is sound, else in the good one.

        Args:
            table: the losses of these steps, shape (steps, micro-batches), this worker's places.
            first: number of the first one.
            done: that of the one after the last.
        """
        engine, share = self._engine, self._share
        rows = engine.micro_losses(table, share.group)
        here: Snapshot | None = None
        if all(share.group.gather(weights_are_finite(engine))):
            here = Snapshot()
            here.capture(engine.replica, self._first_step + done)
        self._good.restore(engine.replica)
        verdict = self._found(rows, first, done)
        if verdict.is_uncounted and (here is None or bool(rows.isinf().any())):
            verdict = Verdict()
        if verdict == Verdict() and here is not None and engine.replica.scaler.is_enabled():
            verdict = Verdict(is_left_out=True)
        if here is not None and (verdict.is_uncounted or verdict.is_left_out):
            here.restore(engine.replica)
        return verdict

    def _found(self, rows: torch.Tensor, first: int, done: int) -> Verdict:
        bad_rows: list[int] = (~rows.isfinite()).any(dim=1).nonzero().flatten().tolist()
        bad_rows = [row for row in bad_rows if first + row not in self._skipped]
        is_uncounted = bool(bad_rows)
        for row in bad_rows:
            micros: list[int] = (~rows[row].isfinite()).nonzero().flatten().tolist()
            found = self._examined(first + row, micros)
            faults = [fault for fault in found if fault not in (None, UNCOUNTED)]
            if faults and faults[0] is not None:
                return Verdict(bad=first + row, fault=faults[0])
            if None in found:
                is_uncounted = False
                break
            if len(micros) == rows.shape[1]:
                fault = no_label(self._engine, self._first_step + first + row)
                return Verdict(bad=first + row, fault=fault)
        if is_uncounted:
            return Verdict(is_uncounted=True)
        # A gradient that is not finite shows in the loss of the next step.
        before = (first + bad_rows[0] if bad_rows else done) - 1
        while before in self._skipped:
            before -= 1
        if before < 0:
            return Verdict()
        for latest in self._examined(before, range(self._engine.batches.micro_batches)):
            if latest is not None and latest != UNCOUNTED:
                return Verdict(bad=before, fault=latest)
        return Verdict()

    def _examined(self, number: int, micros: Collection[int]) -> list[str | None]:
        return examine_together(self._engine, self._share, self._first_step + number, micros)
