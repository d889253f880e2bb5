"""Runs that are given no search interval. Without Ray, but for the last test."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch import Tensor, nn

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Bracket
from ray_autolrs.checksums import unsealed
from ray_autolrs.cluster import interval
from ray_autolrs.cluster.interval import RANGE_TEST_FILE, range_test_steps, with_interval
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.training.lr_sweep import lr_range_test
from tests.digits_task import DigitsTask

CONFIG = AutoLRSConfig(total_steps=100, search=Bracket(probe_steps=8))
LOCAL = ScalingConfig(num_workers=0)


class Broken(DigitsTask):
    """Its data is not finite."""

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return super().loss(model, batch) * math.nan


class Still(DigitsTask):
    """Its loss does not depend on what is trained: as from pre-trained weights, only more so."""

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return super().loss(model, batch) * 0 + 1.0


def trainer(path: Path, config: AutoLRSConfig = CONFIG, task: Any = None) -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task or DigitsTask(),
        config,
        scaling_config=LOCAL,
        run_config=RunConfig(name="run", storage_path=str(path)),
    )


def read(path: Path, name: str) -> Any:
    return json.loads((path / "run" / name).read_text())


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("tested again")


@pytest.fixture(scope="module")
def expected() -> Any:
    return lr_range_test(DigitsTask())


def test_a_run_searches_the_interval_that_the_range_test_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Any
):
    result = trainer(tmp_path).fit()
    found = read(tmp_path, RANGE_TEST_FILE)
    assert (found["lr_min"], found["lr_max"]) == (expected.lr_min, expected.lr_max)
    assert found["losses"] == list(expected.losses)
    wanted = dataclasses.replace(CONFIG, lr=(expected.lr_min, expected.lr_max))
    resolved = wanted.resolve(global_batch_size=32)
    assert result.config == resolved
    assert unsealed(read(tmp_path, "config.json")) == resolved.to_json()
    assert result.events[-1]["range_test_steps"] == len(expected.losses) > 20
    lrs = [event["peak_lr"] for event in result.events if event["kind"] == "probe"]
    assert len(lrs) >= 3
    assert all(expected.lr_min < lr < expected.lr_max for lr in lrs)

    # Once it has ended nothing is run again.
    monkeypatch.setattr(interval, "lr_range_test", refuse)
    again = trainer(tmp_path).fit()
    assert (again.config, again.events) == (resolved, result.events)
    given = trainer(tmp_path, wanted).fit()
    assert (given.config, given.events) == (resolved, result.events)
    with pytest.raises(ValueError, match="was started with seed=0, not 1"):
        trainer(tmp_path, dataclasses.replace(CONFIG, seed=1)).fit()


class KilledError(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize("answers", [0, 1, 4])
def test_a_run_that_is_continued_keeps_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Any, answers: int
):
    exchange, left = SearchActor.exchange, [answers]

    def killed(self: SearchActor, event: Any) -> Any:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        return exchange(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(SearchActor, "exchange", killed)
        with pytest.raises(KilledError):
            trainer(tmp_path).fit()
    monkeypatch.setattr(interval, "lr_range_test", refuse)
    result = trainer(tmp_path).fit()
    assert result.config.lr == (expected.lr_min, expected.lr_max)
    assert read(tmp_path, "config.json")["settings"]["lr"] == [expected.lr_min, expected.lr_max]
    assert result.events[-1]["range_test_steps"] == len(expected.losses)


def test_a_task_whose_loss_is_not_finite_is_refused_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(ValueError, match="the loss is not finite at LR"):
        trainer(tmp_path, task=Broken()).fit()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == []
    # The task may be mended under the run's name.
    trainer(tmp_path).fit()


def test_a_task_whose_loss_cannot_fall_is_searched_around_its_optimizers_lr(tmp_path: Path):
    folder = RunFolder(str(tmp_path), "run")
    low, high = with_interval(CONFIG, Still(), folder, LOCAL).lr  # type: ignore[misc]
    assert low < 0.1 < high
    assert high / low == pytest.approx(1000)
    assert range_test_steps(folder) == math.ceil(100 * 4 / 3) + math.ceil(400 * 4 / 3)


def test_an_interval_that_is_given_is_left_alone(tmp_path: Path):
    given = dataclasses.replace(CONFIG, lr=(0.01, 1.0))
    folder = RunFolder(str(tmp_path), "run")
    assert with_interval(given, Broken(), folder, LOCAL) is given
    assert range_test_steps(folder) == 0


def test_a_range_test_draws_no_random_numbers(tmp_path: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with_interval(CONFIG, DigitsTask(), RunFolder(str(tmp_path), "run"), LOCAL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_find_the_interval_of_a_local_run(ray_cluster: Path, tmp_path: Path, expected: Any):
    two = ScalingConfig(num_workers=2)
    found = with_interval(CONFIG, DigitsTask(), RunFolder(str(tmp_path), "run"), two)
    # The task names its micro-batch size, so that two workers cut the batch as one does.
    assert found.lr == (expected.lr_min, expected.lr_max)
    with pytest.raises(ValueError, match="the loss is not finite") as caught:
        with_interval(CONFIG, Broken(), RunFolder(str(tmp_path), "other"), two)
    assert isinstance(caught.value.__cause__, ray.exceptions.RayTaskError)
