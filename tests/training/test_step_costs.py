"""A step costs what it must: no wait for the device, no compilation anew, no process started."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.replica import Replica
from tests.training.toy import ToyTask, full_net, make_worker, plain_net, sgd, silent

AVERAGES: dict[str, Averaging | None] = {
    "plain": None,
    "schedule_free": ScheduleFreeAverage(momentum=0.8),
    "ema": EMA(),
}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_no_step_reads_from_the_device(average: str, optimizer: Any):
    # Tensors on "meta" have no values: whatever waited for one, such as item(), raises.
    task = ToyTask(full_net, optimizer, micro_batch_size=8, max_grad_norm=1.0)
    device = torch.device("meta")
    replica = Replica(task, Solo(), device, seed=0, averaging=AVERAGES[average])
    losses = torch.zeros(2, dtype=torch.float64, device=device)
    samples = task.train_dataset()
    batches = [task.collate([samples[place] for place in range(8)])] * 2
    for step in range(3):
        replica.take_step(step, batches, range(2), 0.1 / (step + 1), losses)
    with pytest.raises(RuntimeError, match="meta"):
        losses.sum().item()


@pytest.mark.parametrize("average", ["plain", "schedule_free"])
def test_probes_at_other_lrs_compile_nothing_anew(average: str):
    compiled: list[int] = []

    def counting(graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        compiled.append(len(example_inputs))
        return graph.forward

    def net() -> nn.Module:
        module: Any = torch.compile(plain_net(), backend=counting)
        return nn.Sequential(module)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        lr = torch.tensor(0.01, dtype=torch.float64)  # a number would be compiled in
        base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, foreach=False)
        base.step = torch.compile(base.step, backend=counting)  # type: ignore[method-assign]
        return base

    torch._dynamo.reset()
    worker = make_worker(ToyTask(net, optimizer), AVERAGES[average])
    # Each probe of the first stage makes the optimizer's state anew, and is compiled for it.
    worker.run_apply(Apply(1, Segment(0, 8, 0.02)), silent)
    worker.take_snapshot(9)
    counts = []
    for index, lr in enumerate((0.01, 0.02, 0.05)):
        worker.run_probe(Probe(2, index, Segment(9, 13, lr), evals=1), silent)
        counts.append(len(compiled))
    worker.run_apply(Apply(2, Segment(9, 15, 0.04)), silent)
    assert 2 <= counts[0] == counts[-1] == len(compiled)


# pytest-timeout's thread makes a fork look risky, and one core makes two processes look many.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks")
def test_loader_processes_stay_from_probe_to_probe_and_into_the_stage():
    worker = make_worker(ToyTask(plain_net, loader_workers=1))
    loader: Any = worker.engine.batches._loader  # type: ignore[attr-defined]
    seen = set()
    for index in range(3):
        worker.run_probe(Probe(1, index, Segment(0, 8, 0.1)), silent)
        seen |= {process.pid for process in loader._iterator._workers}
    worker.run_apply(Apply(1, Segment(0, 12, 0.1)), silent)
    seen |= {process.pid for process in loader._iterator._workers}
    assert len(seen) == 1
