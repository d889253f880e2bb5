"""A result has what Ray Train's has, also when it is read back from the run's folder."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import ray.train

from ray_autolrs import AutoLRSResult
from tests.cluster.tiny_runs import read_lines, step_of, tiny_trainer


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("storage")).fit()


def test_has_what_a_result_of_ray_train_has(result):
    names = {field.name for field in dataclasses.fields(ray.train.Result)}
    lacking = {name for name in names if not hasattr(result, name)}
    assert lacking == {"return_value", "_storage_filesystem", "_items_to_repr"} & names
    assert result.error is None


def test_evaluations_are_a_table(result):
    table = result.metrics_dataframe
    assert [*table.columns] == ["step", "loss"]
    evaluated = result.history[result.history.kind == "evaluation"]
    assert [*table.step] == [*evaluated.step]
    assert [*table.loss] == [*evaluated.loss]
    assert table.loss.min() == result.metrics["loss"]


def test_checkpoints_have_the_metrics_of_their_step(result):
    steps = [metrics["step"] for _, metrics in result.best_checkpoints]
    assert steps == [step_of(checkpoint.path) for checkpoint, _ in result.best_checkpoints]
    assert steps[-1] == 100
    losses = dict(zip(result.metrics_dataframe.step, result.metrics_dataframe.loss, strict=True))
    assert [metrics["loss"] for _, metrics in result.best_checkpoints] == [
        losses[step] for step in steps
    ]
    best = result.get_best_checkpoint("loss", "min")
    assert losses[step_of(best.path)] == min(losses[step] for step in steps)
    assert step_of(result.get_best_checkpoint("step", "max").path) == 100
    with pytest.raises(ValueError, match="metric='accuracy' must be one of loss, step"):
        result.get_best_checkpoint("accuracy", "max")
    with pytest.raises(ValueError, match="mode='least' must be"):
        result.get_best_checkpoint("loss", "least")


def test_is_read_back(result):
    read = AutoLRSResult.from_path(result.path)
    assert read.schedule == result.schedule
    assert read.events == result.events
    assert read.metrics == result.metrics
    assert read.settings == result.settings
    assert read.checkpoint.path == result.checkpoint.path
    assert read.metrics_dataframe.equals(result.metrics_dataframe)
    with pytest.raises(ValueError, match=r"read result\.settings"):
        _ = read.config
    assert AutoLRSResult.from_path(f"{result.path}/", result.filesystem).path == result.path


def test_what_cannot_be_read_back(result, tmp_path):
    with pytest.raises(ValueError, match=r"is not a run's folder: it holds no events\.jsonl"):
        AutoLRSResult.from_path(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    copy = tmp_path / "run"
    shutil.copytree(result.path, copy)
    lines = read_lines(copy)
    (copy / "events.jsonl").write_text("".join(f"{line}\n" for line in lines[:-1]))
    with pytest.raises(ValueError, match="has not ended"):
        AutoLRSResult.from_path(copy)
