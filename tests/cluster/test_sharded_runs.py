"""Runs with FSDP2 beside the same with DDP: two workers over gloo, started once for every check."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.train import ScalingConfig
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Bracket, Lanes, Stages
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.cluster.checkpoint_store import CheckpointStore
from ray_autolrs.cluster.lanes.sequential import Sequential
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.sharding import state_on_cpu
from tests.training.broken_data import BAD_STEP, Broken, Leaner
from tests.training.processes import start_workers
from tests.training.toy import CPU, FEATURES, ToyTask, assert_same, full_net, make_worker, silent

AVERAGES: dict[str, Averaging | None] = {
    "plain": None,
    "schedule_free": ScheduleFreeAverage(),
    "ema": EMA(decay=0.9),
}


class BlockNet(nn.Module):
    """With a block of an uneven number of rows, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 7)
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 7), nn.Tanh())])
        self.dropout, self.last = nn.Dropout(0.1), nn.Linear(7, 3)
        self.register_buffer("scale", torch.tensor(0.5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + self.scale * block(x)
        out: Tensor = self.last(self.dropout(x))
        return out


def single_net() -> nn.Module:
    return BlockNet().float()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


ACCUMULATED = {"micro_batch_size": 4, "eval_batch_size": 8, "max_grad_norm": 0.5}
"""Two micro-batches on each of two workers, and three batches that validate."""


def block_task(parallelism: str, net: Any = BlockNet, **settings: Any) -> ToyTask:
    return ToyTask(net, adamw, parallelism=parallelism, **(ACCUMULATED | settings))


def curves(task: ToyTask, averaging: Averaging | None, group: Group) -> dict[str, Any]:
    worker = make_worker(task, averaging, group=group, keep_best=True)
    worker.check_first_loss()
    probe = Probe(1, 0, Segment(0, 5, 0.02), evals=2)
    first, again = (worker.run_probe(probe, silent) for _ in range(2))
    apply = worker.run_apply(Apply(1, Segment(0, 9, 0.02)), silent)
    best = worker.best
    with worker.averaged(10):
        end = state_on_cpu(worker.replica.module)
    assert best.step == (10 if worker.gathers_model else -1)
    return {
        "probe": (first.training_losses, first.validation_losses),
        "again": (again.training_losses, again.validation_losses),
        "apply": apply.training_losses,
        "evaluations": apply.evaluations,
        "end": end,
        "best": best.state,
        "sizes": [
            (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
            for parameter in worker.replica.module.parameters()
        ],
    }


def refusal(task: ToyTask, group: Group) -> str:
    with pytest.raises(ValueError, match="Task") as refused:
        make_worker(task, group=group)
    return str(refused.value)


class LeavesHeadTask(ToyTask):
    def shard(self, model: nn.Module, mesh: Any) -> None:
        part: Any = model.get_submodule("blocks.0")
        fully_shard(part, mesh=mesh)


class ShardedAlreadyTask(ToyTask):
    """Sharded in build_model, the whole as one."""

    def build_model(self) -> nn.Module:
        net = BlockNet()
        fully_shard(net)
        return net

    def shard(self, model: nn.Module, mesh: Any) -> None:
        raise AssertionError("it is sharded")


def bad_batch(group: Group) -> dict[str, Any]:
    """Train over a batch that is bad on rank 1: once it is told, once it is left out."""
    settings: dict[str, Any] = {"micro_batch_size": 8, "bad_place": 8, "parallelism": "fsdp2"}
    apply = Apply(1, Segment(0, BAD_STEP + 4, 0.01))
    with pytest.raises(ValueError, match="cannot be trained on") as told:
        make_worker(Broken(BlockNet, adamw, **settings), group=group).run_apply(apply, silent)
    done = make_worker(Leaner(BlockNet, adamw, **settings), group=group).run_apply(apply, silent)
    return {"told": str(told.value), "losses": done.training_losses, "skipped": done.skipped_steps}


def averaged_state(group: Group) -> dict[str, Any]:
    """Return what ScheduleFree keeps around a user's own optimizer of shards, by itself."""
    model = BlockNet()
    fully_shard(model)
    optimizer = ScheduleFree(adamw(model), momentum=0.8)
    model(torch.ones(4, FEATURES).double()).square().mean().backward()
    optimizer.step()
    state: Any = get_optimizer_state_dict(model, optimizer)["state"]
    return {"kept": sorted({key for own in state.values() for key in own})}


# Whole runs ---------------------------------------------------------------------------------


class Interrupted(ToyTask):
    """Its loss raises once, after some steps."""

    steps = 0
    breaks_after = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.steps += torch.is_grad_enabled()
        if self.steps == self.breaks_after:
            raise OSError("the power is gone")
        return super().loss(model, batch)


CONFIG = AutoLRSConfig(
    total_steps=30,
    lr=(1e-2, 0.3),
    search=Bracket(probe_steps=8),
    stages=Stages(first_steps=10, longest_steps=10),
)


def run(
    storage: Path, name: str, task: ToyTask, group: Group, config: AutoLRSConfig = CONFIG
) -> dict[str, Any]:
    """Train in lock-step, with the search in rank 0's process."""
    folder = RunFolder(str(storage), name)
    config = config.resolve(global_batch_size=task.global_batch_size)
    search: Any = SearchActor(config, folder) if group.rank == 0 else None
    store = CheckpointStore(folder, keep=2)
    worker_loop(task, config, group, CPU, search, store, Sequential())
    lines = (Path(folder.path) / "events.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last = max(Path(folder.path).glob("checkpoint_*"))
    return {
        "losses": [record["training_losses"] for record in records if "training_losses" in record],
        "model": torch.load(last / "model.pt"),
        "files": sorted(path.name for path in last.iterdir()),
    }


def find_all(storage: Path, group: Group) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, averaging in AVERAGES.items():
        for parallelism in ("ddp", "fsdp2"):
            found[name, parallelism] = curves(block_task(parallelism), averaging, group)
    already = ShardedAlreadyTask(BlockNet, adamw, micro_batch_size=4, parallelism="fsdp2")
    found["already"] = curves(already, None, group)
    found["bf16"] = curves(block_task("fsdp2", single_net, precision="bf16"), None, group)
    found["refused"] = {
        "norm": refusal(block_task("fsdp2", full_net), group),
        "whole": refusal(LeavesHeadTask(BlockNet, adamw, parallelism="fsdp2"), group),
    }
    found["bad"] = bad_batch(group)
    found["state"] = averaged_state(group)
    for parallelism in ("ddp", "fsdp2"):
        found["run", parallelism] = run(storage, parallelism, block_task(parallelism), group)
    task = Interrupted(BlockNet, adamw, parallelism="fsdp2", breaks_after=65, **ACCUMULATED)
    with pytest.raises(OSError, match="the power is gone"):
        run(storage, "killed", task, group)
    dist.barrier()
    if group.rank == 0:
        shutil.copytree(storage / "killed", storage / "fewer")
    found["resumed"] = run(storage, "killed", task, group)
    return found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def ranks(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    find = functools.partial(find_all, storage)
    found: list[dict[Any, Any]] = start_workers(find, 2, tmp_path_factory.mktemp("gloo"))
    return found


def near(found: Any, expected: Any) -> None:
    """Within 1e-12: clipping adds up the parts' norms in another order."""
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", AVERAGES)
def test_curves_are_those_of_ddp_and_probes_repeat_to_the_bit(ranks: Any, name: str):
    for rank in ranks:
        found, expected = rank[name, "fsdp2"], rank[name, "ddp"]
        for losses, wanted in zip(found["probe"], expected["probe"], strict=True):
            near(losses, wanted)
        near(found["apply"], expected["apply"])
        assert found["again"] == found["probe"]
        assert found["apply"][:6] == found["probe"][0]
        assert [entry[:2] for entry in found["evaluations"]] == [
            entry[:2] for entry in expected["evaluations"]
        ]
        near([e[2] for e in found["evaluations"]], [e[2] for e in expected["evaluations"]])


@pytest.mark.parametrize("name", AVERAGES)
def test_each_worker_holds_half_and_rank_0_gathers_the_model(ranks: Any, name: str):
    first, second = (rank[name, "fsdp2"] for rank in ranks)
    whole = sum(first["sizes"]) + sum(second["sizes"])
    assert whole == sum(ranks[0][name, "ddp"]["sizes"])
    assert sum(first["sizes"]) < 0.6 * whole
    assert second["end"] == second["best"] == {}
    assert_same(first["end"], first["best"])
    for key, value in ranks[0][name, "ddp"]["end"].items():
        torch.testing.assert_close(first["end"][key], value, rtol=0, atol=1e-12)


def test_a_model_that_is_sharded_already_is_taken_as_it_is(ranks: Any):
    unclipped, clipped = ranks[0]["already"], ranks[0]["plain", "ddp"]
    near(unclipped["probe"][0][:1], clipped["probe"][0][:1])
    assert unclipped["again"] == unclipped["probe"]


def test_bf16_casts_weights_for_the_forward_pass(ranks: Any):
    near_enough = pytest.approx(ranks[0]["plain", "ddp"]["probe"][0], rel=0, abs=0.02)
    assert ranks[0]["bf16"]["probe"][0] == near_enough
    assert {tensor.dtype for tensor in ranks[0]["bf16"]["end"].values()} == {torch.float32}


def test_what_cannot_be_sharded_is_refused_by_name(ranks: Any):
    for rank in ranks:
        assert "the model's '1' is a BatchNorm1d" in rank["refused"]["norm"]
        assert "left the parameter 'first.weight' whole" in rank["refused"]["whole"]


def test_a_bad_batch_of_one_worker_is_told_or_skipped_by_all(ranks: Any):
    alone = bad_batch(Solo())
    for rank in ranks:
        assert rank["bad"]["told"] == alone["told"]
        assert rank["bad"]["skipped"] == alone["skipped"] == 1
        near(rank["bad"]["losses"], alone["losses"])


def test_the_average_of_shards_is_in_the_optimizers_state(ranks: Any):
    for rank in ranks:
        assert rank["state"]["kept"] == ["exp_avg_sq", "step", "weight_sum", "z"]


def test_a_run_is_that_of_ddp_and_a_killed_one_ends_at_the_same_bits(ranks: Any):
    found, expected = ranks[0]["run", "fsdp2"], ranks[0]["run", "ddp"]
    for losses, wanted in zip(found["losses"], expected["losses"], strict=True):
        near(losses, wanted)
    shards = [f"shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2)]
    assert found["files"] == ["manifest.json", "model.pt", *shards, "state.pt"]
    assert expected["files"] == ["manifest.json", "model.pt", "state.pt"]
    resumed = ranks[0]["resumed"]
    assert resumed["losses"] == found["losses"]
    assert_same(resumed["model"], found["model"])


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_another_number_of_workers_goes_on(ranks: Any, storage: Path, parallelism: str):
    name = f"fewer_{parallelism}"
    shutil.copytree(storage / "fewer", storage / name)
    found = run(storage, name, block_task(parallelism), Solo())
    expected = ranks[0]["run", "fsdp2"]
    for losses, wanted in zip(found["losses"], expected["losses"], strict=True):
        near(losses, wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CONFIG, None),
        (AutoLRSConfig(total_steps=30, lr=(1e-3, 0.3), lanes=Lanes(kind="sequential")), None),
        (AutoLRSConfig(total_steps=30), "lr=None: an LR range test builds the whole model"),
        *(
            (
                AutoLRSConfig(total_steps=30, lr=(1e-3, 0.3), lanes=lanes),
                "each worker holds a part of the model only; use lanes.kind='sequential'",
            )
            for lanes in (Lanes(kind="workers"), Lanes(kind="actors"), Lanes(actors=2))
        ),
    ],
)
def test_probes_of_one_process_are_refused(config: AutoLRSConfig, message: str | None):
    scaling = ScalingConfig(num_workers=2)
    if message is None:
        AutoLRSTrainer(block_task("fsdp2"), config, scaling_config=scaling)
        return
    with pytest.raises(ValueError, match=message):
        AutoLRSTrainer(block_task("fsdp2"), config, scaling_config=scaling)
