"""A loop that runs already, as a task: its live model and optimizer, its ready batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, final

from torch import Tensor, nn
from torch.utils.data import Dataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import ValidationBatches
from ray_autolrs.training.parts import Parts
from ray_autolrs.training.ready_batches import ReadyBatches

Loss = Callable[[nn.Module, Any], Tensor]


@final
class LiveLoop(TrainingTask):
    """What stands in for a task where nothing is built.

    Args:
        parts: the loop's model and optimizer.
        batches: of the probes' steps.
        validation: what probes are judged on.
        loss: the mean loss of a batch; None where steps are taken in the user's own way and are
            judged by what they return.
        batch_size: samples in a ready batch.
        max_grad_norm: gradients are scaled down to this global 2-norm; None does not clip.
    """

    def __init__(
        self,
        parts: Parts,
        batches: ReadyBatches,
        validation: ValidationBatches,
        loss: Loss | None,
        *,
        batch_size: int,
        max_grad_norm: float | None = None,
    ) -> None:
        self.parts = parts
        self.batches = batches
        self.validation = validation
        self.global_batch_size = batch_size * batches.micro_batches
        self.micro_batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self._loss = loss

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        assert self._loss is not None, "such steps are not validated"
        return self._loss(model, batch)

    def build_model(self) -> NoReturn:
        raise AssertionError("its model is there")

    def build_optimizer(self, model: nn.Module) -> NoReturn:
        raise AssertionError("its optimizer is there")

    def train_dataset(self) -> Dataset[Any]:
        raise AssertionError("its batches are ready")

    def val_dataset(self) -> Dataset[Any]:
        raise AssertionError("its batches are ready")
