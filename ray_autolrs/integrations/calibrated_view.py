"""BatchNorm's running statistics at the average, for as long as the parameters hold it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_autolrs.training.averaging.batch_norm import running_norms, take_statistics
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree


class CalibratedView:
    """Lets an optimizer's ``eval()`` take the statistics anew, and its ``train()`` put them back.

    Statistics belong to the weights that they were taken with. They are taken from the newest
    training batches, which are kept for it.

    Args:
        optimizer: whose two methods are replaced, on this one object.
        model: with BatchNorm.
        forward: passes a batch through the model.
        batches: how many are kept.
    """

    def __init__(
        self,
        optimizer: ScheduleFree,
        model: nn.Module,
        forward: Callable[[Any], object],
        batches: int,
    ) -> None:
        self._model = model
        self._forward = forward
        self._batches: deque[Any] = deque(maxlen=batches)
        self._frozen: list[_BatchNorm] = []
        self._training: list[tuple[Tensor, Tensor]] = []

        def look() -> None:
            trains = all(group["train_mode"] for group in optimizer.param_groups)
            ScheduleFree.eval(optimizer)
            if trains and self._batches:
                self._calibrate()

        def go_on() -> None:
            ScheduleFree.train(optimizer)
            for buffer, value in self._training:
                buffer.copy_(value)
            self._training = []

        vars(optimizer).update(eval=look, train=go_on)

    def keep(self, batch: Any) -> None:
        """Keep a batch that is trained on."""
        self._batches.append(batch)

    def note_frozen(self) -> None:
        """Note which layers did not train in the step that was just taken: they stay."""
        if self._model.training:
            self._frozen = [norm for norm in running_norms(self._model) if not norm.training]

    def _calibrate(self) -> None:
        buffers = [buffer for norm in running_norms(self._model) for buffer in norm.buffers()]
        self._training = [(buffer, buffer.clone()) for buffer in buffers]
        take_statistics(self._model, list(self._batches), self._forward, frozen=self._frozen)


def calibrated_view(
    optimizer: Any, model: nn.Module, forward: Callable[[Any], object], batches: int
) -> CalibratedView | None:
    """Return a view where there is something to calibrate, and None otherwise."""
    if not (isinstance(optimizer, ScheduleFree) and running_norms(model)):
        return None
    return CalibratedView(optimizer, model, forward, batches)
