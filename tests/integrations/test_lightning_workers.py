"""The AutoLRS callback under Lightning's DDP, in two processes over gloo."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_autolrs.training.collectives import Group
from tests.training.processes import start_workers

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from ray_autolrs.integrations.lightning import AutoLRS
    from tests.integrations.test_lightning import (
        SHORT,
        Module,
        found_by,
        samples,
        trainer_of,
    )

pytestmark = pytest.mark.filterwarnings("ignore")


def fitted(folder: Path, batch_size: int, **changed: Any) -> dict[str, Any]:
    callback, module = AutoLRS(**SHORT), Module()
    module.drop.p = 0.0
    data = torch.utils.data.DataLoader(samples(), batch_size=batch_size)
    trainer_of(folder, callback, **changed).fit(module, data)
    found = found_by(callback)
    return {
        "lr": found.lr,
        "losses": [probe.loss for probe in found.probes],
        "lrs": module.lrs,
        "firsts": module.seen[0],
        "weights": dict(module.net.state_dict()),
    }


def train(group: Group) -> dict[str, Any]:
    places = {"RANK": group.rank, "LOCAL_RANK": group.rank, "WORLD_SIZE": group.size}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    strategy = DDPStrategy(
        process_group_backend="gloo", cluster_environment=TorchElasticEnvironment()
    )
    return fitted(Path(tempfile.mkdtemp()), 4, devices=2, strategy=strategy)


@pytest.mark.slow
def test_two_processes_find_and_train_as_one_with_batches_of_twice_the_size(tmp_path):
    one, other = start_workers(train, 2, tmp_path)
    assert not torch.equal(one["firsts"], other["firsts"])
    assert (one["lr"], one["losses"], one["lrs"]) == (other["lr"], other["losses"], other["lrs"])
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name])
    alone = fitted(tmp_path, 8)
    assert one["lr"] == pytest.approx(alone["lr"], rel=1e-9)
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, alone["weights"][name])
