from __future__ import annotations

import pytest
import torch
from torch import nn

from ray_autolrs.cluster.worker_loop import _possible_lanes
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.worker import Worker
from tests.digits_task import DigitsTask, short_config


class Synced(DigitsTask):
    def build_model(self) -> nn.Module:
        return nn.SyncBatchNorm.convert_sync_batchnorm(super().build_model())


def possible(task, lanes, probe_lanes):
    config = short_config(probe_lanes=probe_lanes)
    worker = Worker(task, config, Solo(), torch.device("cpu"))
    return _possible_lanes(worker, config, lanes)


@pytest.mark.parametrize("lanes", ["sequential", "workers", "actors"])
def test_plain_model_can_be_probed_by_any_lane(lanes):
    assert possible(DigitsTask(), lanes, "auto") == lanes


def test_model_that_needs_all_workers_is_probed_by_all_of_them(caplog):
    assert possible(Synced(), "workers", "auto") == "sequential"
    assert "probes run one after the other, on all workers: '1' is a SyncBatchNorm" in caplog.text


@pytest.mark.parametrize("lanes", ["workers", "actors"])
def test_lanes_that_were_asked_for_and_cannot_be_are_refused(lanes):
    with pytest.raises(ValueError, match=rf"probe_lanes='{lanes}' needs workers that can train"):
        possible(Synced(), lanes, lanes)
