from __future__ import annotations

import pytest
import torch

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.training.lone_lanes import lone_lane_obstacle
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.transport import PackedState, pack, unpack
from tests.training.toy import CPU, ToyTask, assert_same, full_net, make_worker, silent


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_tensors_come_back(dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = (torch.arange(6).reshape(2, 3) % 2).to(dtype)
    value = tensor if shape == (2, 3) else tensor.flatten()[: max(1, sum(shape))].reshape(-1)
    value = value[: shape[0]] if shape else value[0]
    state = {"a": [(value, "text")], "b": {"c": value.T if value.ndim == 2 else value}, "d": 1}
    back = unpack(pack(state), CPU)
    assert_same(back, state)


def test_snapshot_in_another_process_continues_with_the_same_bits():
    """Read-only arrays, as the object store gives them: nothing may be written to them."""
    worker = make_worker(ToyTask(full_net))
    probe = Probe(1, 0, Segment(0, 9, 0.1))
    worker.run_probe(probe, silent)
    worker.take_snapshot(10)
    packed = pack(worker.snapshot.state_dict())
    arrays = [array.copy() for array in packed.arrays]
    for array in arrays:
        array.flags.writeable = False
    shared = PackedState(packed.layout, arrays)

    other = make_worker(ToyTask(full_net))
    other.snapshot.load_state_dict(unpack(shared, CPU))
    before = [array.copy() for array in arrays]
    following = Probe(2, 0, Segment(10, 29, 0.3))
    expected = worker.run_probe(following, silent).training_losses
    assert other.run_probe(following, silent).training_losses == expected
    assert other.run_probe(following, silent).training_losses == expected
    assert all((array == kept).all() for array, kept in zip(arrays, before, strict=True))


def test_packing_copies_nothing_on_the_cpu():
    tensor = torch.arange(4.0)
    packed = pack({"a": tensor})
    tensor[0] = 7.0
    assert unpack(packed, CPU)["a"][0] == 7.0


def test_unpacked_snapshot_replaces_an_older_one():
    worker = make_worker(ToyTask(full_net))
    first = worker.snapshot.state_dict()
    other = Snapshot()
    other.load_state_dict(unpack(pack(first), CPU))
    assert other.step == 0
    assert_same(other.state_dict(), first)


def test_models_that_need_all_workers_are_named():
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert lone_lane_obstacle(plain) is None
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    assert "'1' is a SyncBatchNorm" in str(lone_lane_obstacle(synced))


def test_sharded_models_are_named(tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        fully_shard(model, mesh=mesh)
        assert "'0.weight' is sharded" in str(lone_lane_obstacle(model))
    finally:
        dist.destroy_process_group()
