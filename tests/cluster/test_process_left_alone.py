"""``fit()`` in a user's process leaves it as it was, and tells what it cannot follow."""

from __future__ import annotations

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig

from ray_autolrs import AutoLRSTrainer
from ray_autolrs.cluster.conductor import (
    HEALTH_CHECK_VARIABLE,
    START_TIMEOUT_VARIABLE,
    _ray_train_variables,
)
from ray_autolrs.cluster.finishing import finish_on_signal
from tests.cluster.tiny_runs import TinyTask, checkpoints, step_of, tiny_trainer


def draws() -> list[float]:
    """From every global generator, with NumPy's held-back second normal number."""
    return [random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def as_without(fit) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws()
    expected = [draws(), draws()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws()
    fit()
    assert [draws(), draws()] == expected
    assert torch.initial_seed() == 1


def test_random_states_go_on_as_without_a_run(tmp_path):
    as_without(tiny_trainer(tmp_path).fit)
    as_without(tiny_trainer(tmp_path).fit)  # which had finished


def test_random_states_go_on_after_a_run_that_fails(tmp_path):
    def fit() -> None:
        with pytest.raises(OSError, match="the power is gone"):
            tiny_trainer(tmp_path, TinyTask(breaks_after=20)).fit()

    as_without(fit)


def test_handlers_environment_and_settings_of_torch_stay(tmp_path):
    def found() -> tuple[object, ...]:
        return (
            [signal.getsignal(number) for number in sorted(signal.valid_signals())],
            dict(os.environ),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            threading.active_count(),
        )

    before = found()
    tiny_trainer(tmp_path).fit()
    assert found() == before
    with pytest.raises(OSError, match="the power is gone"):
        tiny_trainer(tmp_path, TinyTask(breaks_after=20), "other").fit()
    assert found() == before


def test_handlers_that_others_leave_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)
    with finish_on_signal(threading.Event()):
        signal.signal(signal.SIGINT, lambda number, frame: None)  # as Ray Train does
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)) == before


def test_what_ray_train_is_told_by_a_variable_does_not_stay(monkeypatch):
    monkeypatch.delenv(HEALTH_CHECK_VARIABLE, raising=False)
    monkeypatch.delenv(START_TIMEOUT_VARIABLE, raising=False)
    seen = []

    def fail() -> None:
        seen.append(os.environ[HEALTH_CHECK_VARIABLE])
        seen.append(os.environ[START_TIMEOUT_VARIABLE])
        raise OSError

    with pytest.raises(OSError), _ray_train_variables():  # noqa: PT011 - any will do
        fail()
    assert seen == ["0.2", "300"]
    assert HEALTH_CHECK_VARIABLE not in os.environ
    assert START_TIMEOUT_VARIABLE not in os.environ
    monkeypatch.setenv(HEALTH_CHECK_VARIABLE, "7")
    with _ray_train_variables():
        assert os.environ[HEALTH_CHECK_VARIABLE] == "7"
    assert os.environ[HEALTH_CHECK_VARIABLE] == "7"


@pytest.mark.parametrize("keep", [1, 2, 3, None])
def test_as_many_checkpoints_stay_as_were_asked_for(tmp_path, keep):
    tiny_trainer(tmp_path, checkpoint_config=CheckpointConfig(num_to_keep=keep)).fit()
    steps = [step_of(checkpoint) for checkpoint in checkpoints(tmp_path)]
    assert len(steps) == (keep or 2)
    assert steps == sorted(steps)
    assert steps[-1] == 100


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ({"callbacks": [UserCallback()]}, r"RunConfig\.callbacks"),
        ({"failure_config": FailureConfig(max_failures=1)}, r"FailureConfig\(max_failures=1\)"),
        ({"worker_runtime_env": {"env_vars": {"A": "1"}}}, r"RunConfig\.worker_runtime_env"),
    ],
)
def test_what_only_ray_train_can_follow_is_refused(tmp_path, run, named):
    with pytest.raises(ValueError, match=f"{named}.* is followed by Ray Train alone"):
        tiny_trainer(tmp_path, **run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_score_of_checkpoints_is_refused(tmp_path, num_workers):
    trainer = tiny_trainer(tmp_path)
    kept = CheckpointConfig(checkpoint_score_attribute="loss")
    with pytest.raises(ValueError, match=r"score_attribute='loss'\) is not followed.*best=True"):
        AutoLRSTrainer(
            trainer.task,
            trainer.config,
            scaling_config=ScalingConfig(num_workers=num_workers),
            run_config=RunConfig(storage_path=str(tmp_path), checkpoint_config=kept),
        )


def test_what_changes_nothing_in_this_process_is_accepted(tmp_path):
    trainer = tiny_trainer(tmp_path, failure_config=FailureConfig())
    with pytest.raises(ValueError, match="torch_config is followed by Ray Train alone"):
        AutoLRSTrainer(
            trainer.task,
            trainer.config,
            scaling_config=trainer.scaling_config,
            torch_config=TorchConfig(backend="gloo"),
        )
