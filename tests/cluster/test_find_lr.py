"""find_lr beside a run of the trainer."""

from __future__ import annotations

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, ScheduleFreeAverage
from tests.digits_task import DigitsTask
from tests.training.live import Loop


@pytest.mark.parametrize("averaging", [None, ScheduleFreeAverage()], ids=["plain", "averaged"])
def test_it_finds_the_lr_that_the_trainer_finds(averaging, tmp_path):
    config = AutoLRSConfig(total_steps=60, lr=0.1, averaging=averaging)
    run = AutoLRSTrainer(
        DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(tmp_path)),
    ).fit()
    found = Loop().find(total_steps=60, averaging=averaging)
    assert found.lr == run.schedule.segments[0].peak_lr
    probes = run.history[run.history["kind"] == "probe"]
    assert [probe.lr for probe in found.probes] == probes[probes["stage"] == 1]["peak_lr"].tolist()
