"""ScheduleFree around an optimizer of sharded parameters (FSDP2), with two workers over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.collectives import Group
from tests.training.processes import start_workers
from tests.training.toy import assert_near, plain_net


def trained(model: nn.Module, rank: int, world: int) -> tuple[ScheduleFree, list[Tensor]]:
    """Train on this worker's part of each batch, and return the average."""
    optimizer = ScheduleFree(torch.optim.AdamW(model.parameters(), lr=0.02), momentum=0.8)
    for step in range(6):
        batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        model(batch[rank::world]).square().mean().backward()
        optimizer.step()
    with optimizer.averaged():
        return optimizer, [whole(parameter) for parameter in model.parameters()]


def whole(tensor: Any) -> Tensor:
    value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    result: Tensor = value.detach().clone()
    return result


def net() -> nn.Module:
    torch.manual_seed(0)
    return plain_net()


def sharded(group: Group) -> dict[str, Any]:
    model = net()
    fully_shard(model)
    optimizer, average = trained(model, group.rank, group.size)
    state: Any = get_optimizer_state_dict(model, optimizer)["state"]
    return {"average": average, "kept": sorted({key for own in state.values() for key in own})}


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on GPUs only"
)
def test_sharded_parameters_are_averaged_as_whole_ones(tmp_path: Path):
    expected = trained(net(), 0, 1)[1]
    for found in start_workers(sharded, 2, tmp_path):
        assert_near(found["average"], expected)
        assert found["kept"] == ["exp_avg", "exp_avg_sq", "step", "weight_sum", "z"]
