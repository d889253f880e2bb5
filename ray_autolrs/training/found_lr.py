"""What a search by :func:`~ray_autolrs.training.find_lr.find_lr` has found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ray_autolrs.algorithm.search.strategy import Observation
from ray_autolrs.algorithm.stages.messages import ProbeDone
from ray_autolrs.lr_axes import draw_tried_lrs, new_figure
from ray_autolrs.training.averaging.average import Averaging

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class TriedLR:
    """A probe.

    Attributes:
        lr: the LR that it was made with, of the first parameter group.
        loss: what it was judged by; NaN if it diverged.
        diverged: whether a loss was not finite.
        steps: optimizer steps taken.
        wall_s: seconds.
        training_losses: mean loss of each step, before its update.
    """

    lr: float
    loss: float
    diverged: bool
    steps: int
    wall_s: float
    training_losses: tuple[float, ...]

    @classmethod
    def of(cls, observation: Observation, done: ProbeDone) -> TriedLR:
        """Return a judged probe."""
        judged = observation.forecast
        return cls(
            lr=observation.peak_lr,
            loss=float("nan") if judged is None else judged.loss,
            diverged=done.diverged,
            steps=done.steps,
            wall_s=done.wall_s,
            training_losses=done.training_losses,
        )


@dataclass(frozen=True, slots=True)
class SearchCosts:
    """What a search has cost.

    Attributes:
        probe_steps: optimizer steps of all probes, and of an LR range test if there was one.
        forward_steps: passes without a gradient, as a number of steps.
        wall_s: seconds, with reading and putting back.
        batches: batches that this process read.
        kept_bytes: their size in host memory.
    """

    probe_steps: int
    forward_steps: float
    wall_s: float
    batches: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class FoundLR:
    """An LR and how it was found.

    Attributes:
        lr: of the first parameter group.
        group_lrs: of each parameter group, in the ratio that they had.
        probes: the LRs that were tried, in that order.
        costs: steps, seconds and bytes.
        averaging: the average that was put around the optimizer, resolved; None for none.
        batches_read: the batches that the search read, in order.
        batches: the same, and after them what the source gives next; to be iterated once.
    """

    lr: float
    group_lrs: tuple[float, ...]
    probes: tuple[TriedLR, ...]
    costs: SearchCosts
    averaging: Averaging | None = None
    batches_read: Sequence[Any] = field(default=(), repr=False)
    batches: Iterator[Any] = field(default=iter(()), repr=False, compare=False)

    def set_lr(self, optimizer: torch.optim.Optimizer) -> None:
        """Give each parameter group its LR; make a scheduler afterwards, so that it starts there.

        Raises:
            ValueError: the optimizer has another number of groups.
        """
        if len(optimizer.param_groups) != len(self.group_lrs):
            raise ValueError(
                f"the optimizer has {len(optimizer.param_groups)} parameter groups, and the LR was "
                f"found for {len(self.group_lrs)}; give the optimizer that was searched with"
            )
        for group, lr in zip(optimizer.param_groups, self.group_lrs, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
            if "initial_lr" in group:
                group["initial_lr"] = lr

    @property
    def table(self) -> pd.DataFrame:
        """The probes, a row each, by increasing LR."""
        import pandas as pd

        rows = [asdict(probe) for probe in sorted(self.probes, key=lambda probe: probe.lr)]
        return pd.DataFrame(rows).drop(columns="training_losses")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw each probe's loss over its LR, and the LR that was found.

        Args:
            path: file to write the image to, if one is wanted.
        """
        figure = new_figure()
        draw_tried_lrs(figure.subplots(), [(p.lr, p.loss) for p in self.probes], self.lr)
        if path is not None:
            figure.savefig(os.fspath(path))
        return figure
