"""A found schedule as a torch ``LRScheduler``, for any plain PyTorch loop."""

from __future__ import annotations

from typing import Any, Protocol, final

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ray_autolrs.algorithm.schedules.segments import group_lrs


class Replayable(Protocol):
    """What a replay needs of a schedule."""

    @property
    def total_steps(self) -> int:
        """Number of steps that the schedule holds."""

    def lr_at(self, step: int) -> float:
        """Return the LR of the first parameter group at ``step``, from 0."""


@final
class ReplayLR(LRScheduler):
    """Sets the LR of each step from a schedule: call ``step()`` after each optimizer step.

    The groups keep the ratio of the LRs that the optimizer was built with; the first group
    gets the schedule's LR, bit for bit what AutoLRS trained with. From the schedule's end on,
    its last LR is held: torch asks for one step more than a loop makes.

    Args:
        optimizer: its groups' ``lr``, or ``initial_lr`` where an earlier scheduler has left
            it, give the ratios.
        schedule: the LR of each step.
        last_epoch: number of the last step taken, -1 for none. torch's name: here, as in most
            loops over batches, it counts optimizer steps.

    Raises:
        ValueError: the first group's LR is not positive, so that no group has a ratio to it.
        KeyError: ``last_epoch`` is not -1 and a group holds no ``initial_lr`` (torch's rule).
    """

    def __init__(self, optimizer: Optimizer, schedule: Replayable, last_epoch: int = -1) -> None:
        group = optimizer.param_groups[0]
        reference = float(group.get("initial_lr", group["lr"]))
        if not reference > 0:
            raise ValueError(
                f"the optimizer's first parameter group has lr={reference!r}; it must be "
                "positive, because the other groups keep their ratio to it"
            )
        self.schedule = schedule
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's LR at the step that comes next."""
        step = min(self.last_epoch, self.schedule.total_steps - 1)
        base_lrs = [float(base_lr) for base_lr in self.base_lrs]
        return [*group_lrs(self.schedule.lr_at(step), base_lrs)]

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule, as plain values; the schedule is not part of it."""
        state: dict[str, Any] = super().state_dict()
        del state["schedule"]
        return state | {"sets_lrs": self._sets_lrs()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved place, and set the optimizer's LRs for it.

        torch's own schedulers leave the LRs to the optimizer's state, so that a resumed run
        takes a wrong step where the optimizer's state was loaded before the scheduler was
        built. Here the order does not matter. Where another scheduler's turn was (in
        ``SequentialLR``), the LRs are left to that one.

        Args:
            state_dict: what :meth:`state_dict` returned.
        """
        state = dict(state_dict)
        sets_lrs = state.pop("sets_lrs", self._holds_a_step(state["last_epoch"]))
        super().load_state_dict(state)
        if not sets_lrs:
            return
        lrs = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = [
            lr.clone() if isinstance(lr := group["lr"], Tensor) else lr
            for group in self.optimizer.param_groups
        ]

    def _sets_lrs(self) -> bool:
        """Tell whether the optimizer's LRs are those that this scheduler gave it."""
        lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        return self._holds_a_step(self.last_epoch) and lrs == [float(lr) for lr in self._last_lr]

    @staticmethod
    def _holds_a_step(last_epoch: int) -> bool:
        return last_epoch >= 0  # SequentialLR puts it back until its turn has come
