"""What the trainer refuses before anything starts."""

from __future__ import annotations

import threading

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSTrainer, Lanes
from tests.digits_task import DigitsTask, short_config


class WithLock(DigitsTask):
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_task_that_cannot_be_pickled_is_refused():
    with pytest.raises(ValueError, match=r"WithLock cannot be pickled because of .* 'lock'"):
        AutoLRSTrainer(WithLock(), short_config())


@pytest.mark.parametrize(
    ("num_workers", "message"),
    [
        (3, r"global_batch_size=32 must be divisible by num_workers=3; use 30 or 33"),
        (4, r"micro_batch_size=16 must divide .* 32 / 4 = 8"),
        ((1, 2), r"num_workers=\(1, 2\)\) must be an integer"),
    ],
)
def test_workers_that_do_not_fit_are_refused(num_workers, message):
    with pytest.raises(ValueError, match=message):
        AutoLRSTrainer(
            DigitsTask(), short_config(), scaling_config=ScalingConfig(num_workers=num_workers)
        )


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        (DigitsTask, short_config(), "task is DigitsTask; it must be an instance of TrainingTask"),
        (DigitsTask(), {"lr": 1}, "config is dict; it must be an instance of AutoLRSConfig"),
    ],
)
def test_arguments_of_another_class_are_refused(task, config, message):
    with pytest.raises(TypeError, match=message):
        AutoLRSTrainer(task, config)


def test_local_run_needs_local_storage(tmp_path):
    from pyarrow import fs

    trainer = AutoLRSTrainer(
        DigitsTask(),
        short_config(),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(
            name="run",
            storage_path="runs",
            storage_filesystem=fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()),
        ),
    )
    with pytest.raises(ValueError, match="must be local for num_workers=0"):
        trainer.fit()


@pytest.mark.parametrize("kind", ["workers", "actors"])
def test_local_run_has_no_lanes(tmp_path, kind):
    trainer = AutoLRSTrainer(
        DigitsTask(),
        short_config(lanes=Lanes(kind=kind)),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(tmp_path)),
    )
    with pytest.raises(ValueError, match=f"lanes.kind='{kind}' needs Ray workers"):
        trainer.fit()


def test_a_kind_of_lane_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"lanes.kind='worker' must be 'auto' or one of actors, "):
        AutoLRSTrainer(DigitsTask(), short_config(lanes=Lanes(kind="worker")))


def test_users_run_config_is_left_alone():
    run_config = RunConfig(storage_path="runs")
    trainer = AutoLRSTrainer(DigitsTask(), short_config(), run_config=run_config)
    assert run_config.storage_path == "runs"
    assert trainer.run_config.name == run_config.name
    assert str(trainer.run_config.storage_path).startswith("/")
