"""Runs that go on elsewhere than they began, and the workers' environment: on a real Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Lanes
from ray_autolrs.cluster.conductor import HEALTH_CHECK_VARIABLE
from tests.cluster.ray_tasks import FromEnvironment, RefusesBatch
from tests.cluster.tiny_runs import TinyTask, assert_same_run, step_of, tiny_trainer

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def trainer(storage: Path, task: TinyTask, num_workers: int, **parts) -> AutoLRSTrainer:
    values: dict[str, Any] = {"total_steps": 100, "lr": (1e-3, 0.3)}
    values["lanes"] = Lanes(kind="sequential")
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(**(values | parts)),
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(name="run", storage_path=str(storage)),
    )


@pytest.fixture(autouse=True)
def _process_is_left_alone(ray_cluster) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    assert HEALTH_CHECK_VARIABLE not in os.environ
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_run_that_moves_to_ray_and_back_ends_as_if_it_had_stayed(tmp_path):
    undisturbed = tiny_trainer(tmp_path / "undisturbed").fit()
    # A worker's ValueError reaches the user as it is.
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match=r"^this batch is refused$"):
            trainer(tmp_path, RefusesBatch(breaks_after=60), num_workers).fit()
    result = trainer(tmp_path, TinyTask(), 0).fit()
    assert step_of(result.checkpoint.path) == 100
    ready = [event["step"] for event in result.events if event["kind"] == "ready"]
    assert ready == [0, 20, 70]
    assert_same_run(result, undisturbed)


def test_range_test_and_probe_actors_have_the_workers_environment(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    lanes = Lanes(kind="actors", actors=1)
    run = trainer(tmp_path, FromEnvironment(marks), 1, lr=None, total_steps=30, lanes=lanes)
    environment = {"env_vars": {"SAMPLES": "64"}}
    vars(run.run_config)["worker_runtime_env"] = environment
    run.fit()
    names = [path.name for path in marks.iterdir()]
    assert len(names) >= 3
    assert all(name.startswith("64-") for name in names)
