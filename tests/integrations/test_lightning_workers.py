"""The AutoLRS callback in two processes over gloo, under Lightning's DDP; they are started once."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from ray_autolrs import ScheduleFreeAverage
from ray_autolrs.training.collectives import Group
from tests.integrations.tiny_lightning import SHORT, Module, fitted, found_by, samples
from tests.training.processes import start_workers
from tests.training.toy import assert_same

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    from ray_autolrs.integrations.lightning import AutoLRS

AVERAGES = {"averaged": ScheduleFreeAverage(), "plain": None}
BATCH = 8
"""Samples on all processes together."""


class Still(Module):
    """Without dropout, which draws other numbers in another process."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.drop.p = 0.0

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["lr"] *= self.factor
        return optimizer


def searched(folder: Path, averaging: Any, data: Any, **changed: Any) -> tuple[AutoLRS, Module]:
    callback = AutoLRS(averaging=averaging, **SHORT)
    _, module = fitted(
        folder, callback, module=Still(), data=data, accumulate_grad_batches=2, **changed
    )
    return callback, module


def train(group: Group) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    names = {"RANK": group.rank, "LOCAL_RANK": group.rank, "WORLD_SIZE": group.size}
    os.environ.update({name: str(value) for name, value in (names | {"NODE_RANK": 0}).items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    folder = Path(os.environ["AUTOLRS_TEST_FOLDER"])
    result: dict[str, Any] = {}
    settings: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
    for name, averaging in AVERAGES.items():
        # Lightning puts a sampler of its own into a loader, which shuffles.
        places: Any = DistributedSampler(samples(400), group.size, group.rank, shuffle=False)
        data = DataLoader(samples(400), BATCH // group.size, sampler=places)
        callback, module = searched(
            folder, averaging, data, use_distributed_sampler=False, **settings
        )
        found = found_by(callback)
        result[name] = {
            "lr": found.lr,
            "losses": [probe.training_losses for probe in found.probes],
            "weights": dict(module.net.state_dict()),
        }
    # With the LR that was found, and a sampler that Lightning shuffles.
    callback, module = searched(folder, None, DataLoader(samples(400), 4), **settings)
    other = Still()
    other.factor = found_by(callback).lr / 0.05
    settings |= {"accumulate_grad_batches": 2, "data": DataLoader(samples(400), 4)}
    fitted(folder, None, module=other, **settings)
    assert_same(module.seen, other.seen)
    for name, value in module.net.state_dict().items():
        torch.testing.assert_close(value, other.net.state_dict()[name], rtol=1e-12, atol=1e-12)
    return result


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_find_what_one_finds_with_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOLRS_TEST_FOLDER", str(tmp_path))
    one, other = start_workers(train, 2, tmp_path)
    for name, averaging in AVERAGES.items():
        callback, module = searched(tmp_path, averaging, DataLoader(samples(400), BATCH))
        found = found_by(callback)
        # A mean over the halves of a batch rounds otherwise than one over the whole of it.
        for each in (one[name], other[name]):
            assert each["lr"] == pytest.approx(found.lr, rel=1e-12)
            for losses, probe in zip(each["losses"], found.probes, strict=True):
                assert losses == pytest.approx(probe.training_losses, rel=1e-9)
            for key, value in module.net.state_dict().items():
                torch.testing.assert_close(each["weights"][key], value, rtol=1e-9, atol=1e-12)
        assert_same(one[name], other[name])
