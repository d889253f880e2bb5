"""find_lr in two processes over gloo. They are started once and run every check."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.found_lr import FoundLR
from tests.digits_task import DigitsTask
from tests.training.live import Loop, everything, searched_by_worker, take_step
from tests.training.processes import start_workers
from tests.training.toy import assert_same


class Quartered(DigitsTask):
    """Accumulates, and has validation batches that two workers cannot share evenly."""

    micro_batch_size = 8
    eval_batch_size = 40
    max_grad_norm = 1.0


class Layered(Quartered):
    """Without BatchNorm, which a run does not shard."""

    parallelism = "fsdp2"

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 10)
        ).double()


AVERAGES: dict[str, Averaging | None] = {"plain": None, "averaged": ScheduleFreeAverage()}


def search(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, averaging in AVERAGES.items():
        found[f"{name}, a run's"] = searched_by_worker(Quartered(), group, averaging=averaging)
        for is_wrapped in (False, True):
            loop = Loop(Quartered(), group.rank, group.size)
            loop.model[1].running_mean += group.rank  # its own
            if is_wrapped:
                loop.model = DistributedDataParallel(loop.model)
                loop.model.eval()  # the statistics are to stay
                loss = loop.task.loss(loop.model, next(loop.train_batches()))
                loop.model.train()
                loss.backward()
            before = everything(loop.model, loop.optimizer)
            result = loop.find(averaging=averaging)
            assert_same(before, everything(loop.model, loop.optimizer))
            found[f"{name}, wrapped" if is_wrapped else name] = replace(result, batches=iter(()))

    found |= {f"{name}, sharded": sharded(group, AVERAGES[name]) for name in AVERAGES}
    for averaging in AVERAGES.values():
        run = searched_by_worker(Layered(), group, averaging=averaging)
        loop = Loop(Layered(), group.rank, group.size)
        loop.task.shard(loop.model, init_device_mesh("cpu", (group.size,)))
        loop.optimizer = loop.task.build_optimizer(loop.model)
        result = loop.find(averaging=averaging)
        assert result.lr == run.segment.peak_lr
        assert [(probe.lr, probe.loss) for probe in result.probes if not probe.diverged] == [
            (probe.peak_lr, probe.forecast.loss) for probe in run.results if probe.forecast
        ]
    loop = Loop(Quartered(), group.rank, group.size)
    model = DistributedDataParallel(loop.model)

    def step(batches: list[Any]) -> torch.Tensor:
        loop.optimizer.zero_grad()
        with model.no_sync():
            first: torch.Tensor = loop.task.loss(model, batches[0]) / 2
            first.backward()
        second: torch.Tensor = loop.task.loss(model, batches[1]) / 2
        second.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        loop.optimizer.step()
        return first.detach() + second.detach()

    loop.model = model
    found["step"] = replace(loop.find(step=step, loss=None), batches=iter(()))
    few = [next(loop.train_batches())] * (50 if group.rank == 0 else 20)
    with pytest.raises(ValueError, match="and the search needs 38 on each process"):
        loop.find(train_batches=iter(few))
    return found


def sharded(group: Group, averaging: Averaging | None) -> FoundLR:
    """Search on a model of which each process holds a part; with an average, in the middle."""
    loop = Loop(Quartered(), group.rank, group.size)
    mesh = init_device_mesh("cpu", (group.size,))
    fully_shard(loop.model[0], mesh=mesh)
    fully_shard(loop.model, mesh=mesh)
    loop.optimizer = loop.task.build_optimizer(loop.model)
    if averaging is not None:
        take_step(loop, next(loop.train_batches()), loop.task.loss)
    before = parts(everything(loop.model, loop.optimizer))
    with torch.no_grad():  # An evaluation leaves it whole.
        loop.model.eval()(loop.val_batches[0][0])
    loop.model.train()
    found = loop.find(averaging=averaging)
    assert_same(before, parts(everything(loop.model, loop.optimizer)))
    return replace(found, batches=iter(()))


def parts(value: Any) -> Any:
    """Return this process's part of each tensor."""
    if isinstance(value, dict):
        return {key: parts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [parts(item) for item in value]
    return value.to_local() if hasattr(value, "to_local") else value


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on GPUs only"
)
def test_two_processes_find_what_one_finds(tmp_path):
    first, second = start_workers(search, 2, tmp_path)
    for name in AVERAGES:
        expected = first[f"{name}, a run's"]
        losses = {
            result.peak_lr: result.forecast.loss for result in expected.results if result.forecast
        }
        for found in (first[name], first[f"{name}, wrapped"], second[name]):
            assert found.lr == expected.segment.peak_lr
            assert losses == {probe.lr: probe.loss for probe in found.probes if not probe.diverged}
        assert first[f"{name}, sharded"].lr == second[f"{name}, sharded"].lr
        # One process that accumulates all adds up in another order.
        alone = searched_by_worker(Quartered(), averaging=AVERAGES[name], num_workers=2)
        assert alone.segment.peak_lr == pytest.approx(expected.segment.peak_lr, rel=1e-9)
        assert second[name].costs.batches == first[name].costs.batches
    # Clipping adds up the parts' norms in another order.
    found = first["plain, sharded"]
    assert found.lr == pytest.approx(first["plain"].lr, rel=1e-9)
    assert first["step"].lr == second["step"].lr
