"""Whole runs that overfit: the model of the best validation is kept, over a restart, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Bracket, Stages, Validation
from ray_autolrs.training.worker import Worker
from tests.digits_task import DigitsTask


class InterruptedRunError(Exception):
    """Stands for the death of the process."""


class Overfitting(DigitsTask):
    """A few samples with half of their labels wrong, learnt by heart."""

    def train_dataset(self) -> Any:
        dataset = self.part(slice(0, 64))
        images, labels = dataset.tensors
        labels = torch.where(torch.arange(64) % 2 == 0, (labels + 1) % 10, labels)
        return torch.utils.data.TensorDataset(images, labels)


def train(path: Path, name: str, keep_best: bool = True, **overrides: Any) -> Any:
    values: dict[str, Any] = {
        "total_steps": 120,
        "lr": (0.01, 3.0),
        "search": Bracket(probe_steps=10),
        "stages": Stages(longest_steps=40),
    }
    validation = Validation(every_steps=10, keep_best=keep_best)
    config = AutoLRSConfig(validation=validation, **(values | overrides))
    return AutoLRSTrainer(
        Overfitting(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=name, storage_path=str(path)),
    ).fit()


def loss_of(result: Any) -> float:
    task = Overfitting()
    model = task.build_model()
    with result.checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(f"{folder}/model.pt"))
    model.eval()
    with torch.no_grad():
        return task.loss(model, list(task.val_dataset().tensors)).item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that keeps its best model."""
    return train(tmp_path_factory.mktemp("storage"), "whole")


@pytest.mark.parametrize("overrides", [{}, {"averaging": None}])
def test_an_overfitted_run_gives_the_model_of_its_best_validation(
    whole: Any, tmp_path: Path, overrides: dict[str, Any]
):
    best = train(tmp_path, "best", **overrides) if overrides else whole
    last = train(tmp_path, "last", keep_best=False, **overrides)
    losses = best.history[best.history["kind"] == "evaluation"]["loss"].tolist()
    assert losses == last.history[last.history["kind"] == "evaluation"]["loss"].tolist()
    assert min(losses) < 0.9 * losses[-1]
    assert best.metrics["loss"] == min(losses)
    assert last.metrics["loss"] == losses[-1]
    for result in (best, last):
        assert loss_of(result) == pytest.approx(result.metrics["loss"], rel=1e-6)


def test_the_best_weights_outlive_a_restart(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_apply = Worker.run_apply

    def dies_in_the_last_stage(self: Worker, apply: Any, progress: Any) -> Any:
        if apply.segment.last_step == 119:
            raise InterruptedRunError
        return run_apply(self, apply, progress)

    monkeypatch.setattr(Worker, "run_apply", dies_in_the_last_stage)
    with pytest.raises(InterruptedRunError):
        train(tmp_path, "cut")
    monkeypatch.setattr(Worker, "run_apply", run_apply)
    resumed = train(tmp_path, "cut")
    best_step = min(
        (value, step)
        for event in whole.events
        if event["kind"] == "apply"
        for step, name, value in event["evaluations"]
        if name == "loss"
    )[1]
    assert best_step < 80, "the best came before the last stage: the checkpoint held it"
    assert resumed.metrics == whole.metrics
    assert loss_of(resumed) == loss_of(whole)
