"""Means over a test set, for a trained model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import to_device
from ray_autolrs.training.random_streams import Stream, seed_everything


@torch.no_grad()
def measure_test_set(
    task: TrainingTask,
    dataset: Dataset[Any],
    model: nn.Module,
    device: torch.device,
    *,
    batch_size: int,
) -> dict[str, float]:
    """Return the means of the task's metrics over a data set, each named ``test_...``."""
    seed_everything(0, Stream.EVALUATION_DATA)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch_size, num_workers=task.loader_workers, collate_fn=task.collate
    )
    size = len(dataset)  # type: ignore[arg-type]  # map-style
    model.eval()
    totals: dict[str, float] = {}
    for place, batch in enumerate(loader):
        samples = min(batch_size, size - place * batch_size)
        for name, mean in task.metrics(model, to_device(batch, device)).items():
            totals[name] = totals.get(name, 0.0) + float(mean) * samples
    return {f"test_{name}": total / size for name, total in totals.items()}
