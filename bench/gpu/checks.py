"""Whether the training layer does on a device what its tests say of the CPU.

Each check raises AssertionError, or returns what it has found.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from bench.gpu.tasks import SmallTask
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.task import Precision
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.collectives import Group, ProcessGroup, Solo
from ray_autolrs.training.find_lr import find_lr
from ray_autolrs.training.settings import TrainingSettings, Validation
from ray_autolrs.training.worker import Worker

Check = Callable[[torch.device], dict[str, Any]]
LR, STEPS = 3e-3, 8
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


def made(task: SmallTask, device: torch.device, group: Group | None = None) -> Worker:
    settings = TrainingSettings(
        averaging=ScheduleFreeAverage(momentum=0.8),
        validation=Validation(keep_best=False, probe_samples=32),
        follows_path=True,
    )
    worker = Worker(task, settings, group or Solo(), device)
    worker.take_snapshot(0)
    return worker


def probed(worker: Worker, lr: float = LR) -> tuple[float, ...]:
    done = worker.run_probe(Probe(1, 0, Segment(0, STEPS - 1, lr), evals=1), lambda *_: None)
    return done.training_losses + done.validation_losses


def probes_leave_no_trace(device: torch.device) -> dict[str, Any]:
    """Snapshots restore to the bit, wherever they lie; dropout is that of the step."""
    found: dict[str, Any] = {}
    for precision, place in itertools.product(PRECISIONS, ("device", "host")):
        task = SmallTask(precision)
        task.snapshot_place = place  # type: ignore[assignment]
        worker = made(task, device)
        first = probed(worker)
        probed(worker, 10 * LR)
        assert probed(worker) == first, (precision, place)
        applied = worker.run_apply(Apply(1, Segment(0, STEPS - 1, LR)), lambda *_: None)
        assert applied.training_losses == first[:STEPS], (precision, place)
        assert applied.directness is not None
        found[f"{precision}, {place}"] = first[-1]
    return found


def random_numbers_are_the_step_s(device: torch.device) -> dict[str, Any]:
    """Two workers that drew different numbers before take the same step."""
    one, other = made(SmallTask(), device), made(SmallTask(), device)
    torch.rand(17, device=device)
    assert probed(one) == probed(other)
    return {"losses": probed(one)[:2]}


def fused_adam_is_adam(device: torch.device) -> dict[str, Any]:
    """The kernel that averaging takes by itself gives what a loop over parameters gives."""
    models = [nn.Linear(33, 17, device=device) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        ScheduleFree(torch.optim.AdamW(model.parameters(), lr=LR, foreach=foreach))
        for model, foreach in zip(models, (None, False), strict=True)
    ]
    for step in range(20):
        x = torch.randn(8, 33, generator=torch.Generator().manual_seed(step)).to(device)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    apart = float((models[0].weight - models[1].weight).abs().max())
    assert apart < 1e-5, apart
    return {"largest difference": apart}


def compiled_steps_are_compiled_once(device: torch.device) -> dict[str, Any]:
    """Probes at other LRs compile nothing anew, and a compiled model learns as well."""
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    worker, plain = made(SmallTask(is_compiled=backend), device), made(SmallTask(), device)
    losses = probed(worker)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for lr in (LR / 3, 3 * LR):
        probed(worker, lr)
    again = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert again == compiled > 0, (compiled, again)
    # Dropout draws other numbers where it is compiled.
    assert abs(losses[-1] - probed(plain)[-1]) < 0.2
    return {"graphs": compiled}


class Usual(SmallTask):
    """Its weights in the usual order: FSDP2 takes no other, and dropout draws in that order."""

    def build_model(self) -> nn.Module:
        net: Any = super().build_model()
        return net.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return]


class Sharded(Usual):
    """Split by ``fully_shard`` over a group of one."""

    parallelism = "fsdp2"

    def shard(self, model: nn.Module, mesh: Any) -> None:
        fully_shard(model, mesh=mesh)


def fsdp2_on_one_rank(device: torch.device) -> dict[str, Any]:
    """A sharded model gives the losses of the whole one, and restores to the bit."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        try:
            worker = made(Sharded(), device, ProcessGroup(device))
            assert worker.replica.is_sharded
            first = probed(worker)
            assert probed(worker) == first
        finally:
            dist.destroy_process_group()
    whole = probed(made(Usual(), device))
    apart = max(abs(a - b) for a, b in zip(first, whole, strict=True))
    assert apart < 1e-4, apart
    return {"largest difference": apart, "backend": backend}


def a_search_leaves_a_loop_as_it_was(device: torch.device) -> dict[str, Any]:
    """find_lr, in a user's own loop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(64, 6, device=device)
    batches = [(part, part.sum(dim=1, keepdim=True)) for part in x.split(16)]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    loss(model, batches[0]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    found = find_lr(
        model,
        optimizer,
        loss=loss,
        train_batches=batches,
        val_batches=batches,
        total_steps=200,
        lr=(1e-4, 1.0),
    )
    after = (model.state_dict(), optimizer.state_dict())
    pairs = zip(*map(torch.utils._pytree.tree_leaves, (before, after)), strict=True)
    assert all(_same(one, other) for one, other in pairs)
    return {"lr": found.lr}


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


CHECKS: tuple[Check, ...] = (
    probes_leave_no_trace,
    random_numbers_are_the_step_s,
    fused_adam_is_adam,
    compiled_steps_are_compiled_once,
    fsdp2_on_one_rank,
    a_search_leaves_a_loop_as_it_was,
)
