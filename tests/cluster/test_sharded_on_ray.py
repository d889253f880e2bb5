"""A sharded model through Ray Train: two workers, one of which is killed within a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import nn

from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSResult,
    AutoLRSTrainer,
    Bracket,
    Checkpoints,
    Stages,
)
from ray_autolrs.task import Parallelism
from tests.cluster.ray_tasks import KilledOnce
from tests.cluster.tiny_runs import model_of

# As the other runs on Ray: on cores that others take too, each start lasts a minute.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


class Killed(KilledOnce):
    """Digits with layers that are sharded; one of its processes dies once."""

    parallelism: Parallelism = "fsdp2"

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()


class Whole(Killed):
    """The same by DDP, without a death."""

    parallelism: Parallelism = "ddp"


def fit(path: Path, task: Killed, name: str, workers: int) -> AutoLRSResult:
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(
            total_steps=40,
            lr=(1e-2, 1.0),
            search=Bracket(probe_steps=8),
            stages=Stages(first_steps=20, longest_steps=20),
            checkpoints=Checkpoints(every_steps=2),
            divergence_check_steps=2,
        ),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(
            name=name,
            storage_path=str(path),
            failure_config=FailureConfig(max_failures=min(1, workers)),
        ),
    ).fit()


@pytest.mark.usefixtures("ray_cluster")
def test_a_sharded_run_survives_a_worker_and_is_that_of_one_process(tmp_path: Path):
    marker = tmp_path / "killed"
    killed = fit(tmp_path, Killed(marker, passes=55), "killed", 2)
    assert marker.exists()
    alone = fit(tmp_path, Whole(marker, passes=0), "alone", 0)
    pairs = [
        (both["training_losses"], one["training_losses"])
        for both, one in zip(
            [e for e in killed.events if "training_losses" in e],
            [e for e in alone.events if "training_losses" in e],
            strict=True,
        )
    ]
    assert len(pairs) >= 4
    for both, one in pairs:
        assert both == pytest.approx(one, rel=1e-9)
    found, expected = model_of(killed), model_of(alone)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
