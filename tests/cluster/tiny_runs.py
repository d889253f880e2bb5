"""Runs of 100 steps in this process that take a moment, for tests of what a run's folder may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ray.train import RunConfig, ScalingConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, TrainingTask


class TinyTask(TrainingTask):
    """A linear map.

    Args:
        breaks_after: training steps after which the loss raises, probes included; None never.
    """

    global_batch_size = 8

    def __init__(self, breaks_after: int | None = None) -> None:
        self.breaks_after = breaks_after
        self.steps = 0

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_dataset(self) -> TensorDataset:
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
        return TensorDataset(x, x[:, :2])

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        self.steps += torch.is_grad_enabled()
        if self.breaks_after is not None and self.steps > self.breaks_after:
            raise OSError("the power is gone")
        return nn.functional.mse_loss(model(batch[0]), batch[1])


def tiny_trainer(
    storage: Path, task: TrainingTask | None = None, name: str = "run", **run: Any
) -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task or TinyTask(),
        AutoLRSConfig(total_steps=100, lr=(1e-3, 0.3)),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=name, storage_path=str(storage), **run),
    )


def checkpoints(storage: Path, name: str = "run") -> list[Path]:
    return sorted((storage / name).glob("checkpoint_*"))


def read_lines(run: Path) -> list[str]:
    return (run / "events.jsonl").read_text().splitlines()


def step_of(checkpoint: Path | str) -> int:
    step: int = json.loads((Path(checkpoint) / "manifest.json").read_text())["step"]
    return step


def model_of(result: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(f"{result.checkpoint.path}/model.pt")
    return state


def assert_same_run(result: Any, expected: Any) -> None:
    assert result.schedule == expected.schedule
    assert result.metrics == expected.metrics
    model, wanted = model_of(result), model_of(expected)
    assert model.keys() == wanted.keys()
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)
