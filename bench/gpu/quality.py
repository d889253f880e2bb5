"""The default beside WSD, cosine and Schedule-Free, at a size that no CPU reaches.

All take the same number of steps, as many as the time allows. The default's search costs steps
besides, which are told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.gpu.costs import step_seconds
from bench.gpu.tasks import GPTTask, ImageTask
from bench.measurement import Row
from bench.tasks.kinds import BenchTask
from ray_autolrs.algorithm.schedules.run_shapes import WSD, Constant, Cosine, RunShape
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Apply, Event, Finish, Probe, Ready
from ray_autolrs.algorithm.stages.phases import RunState
from ray_autolrs.comparison.plain_training import train_plain
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.worker import Worker

RIVALS: dict[str, tuple[RunShape, Averaging | None]] = {
    "wsd": (WSD(), None),
    "cosine": (Cosine(), None),
    "schedule_free": (Constant(), ScheduleFreeAverage(momentum=0.9, power=0.0)),
}
WARMUP = 0.05
LRS = {"gpt": (3e-4, 1e-3, 3e-3), "resnet": (0.03, 0.1, 0.3)}
INTERVALS = {"gpt": (1e-5, 1e-1), "resnet": (1e-3, 3.0)}
MOST_STEPS, LEAST_STEPS, TINY_STEPS = 3000, 100, 40
COST_OF_OURS = 1.35
"""Of a run of the default, over one of a rival: its search, and more evaluations."""

Step = int


def compare(data: Path, device: torch.device, seconds: float, *, is_tiny: bool) -> Iterator[Row]:
    """Yield a row for each run, the two tasks in turn; ``seconds`` are for all of them."""
    tasks: dict[str, BenchTask] = {
        "gpt": GPTTask(data, is_tiny=is_tiny),
        "resnet": ImageTask(data, is_tiny=is_tiny),
    }
    for number, (name, task) in enumerate(tasks.items()):
        started_s = time.perf_counter()
        steps = TINY_STEPS if is_tiny else steps_in(task, device, seconds / (len(tasks) - number))
        yield {"task": name, "parameters": parameters_of(task), "steps": steps}
        yield {"task": name, **default_run(task, INTERVALS[name], steps, device)}
        for rival, (shape, averaging) in RIVALS.items():
            for lr in LRS[name][1:2] if is_tiny else LRS[name]:
                whole = shape.over(
                    0, steps, warmup_steps=max(1, round(WARMUP * steps)), warmup_power=1.0
                )
                record = train_plain(
                    task,
                    LRSchedule((Segment(0, steps - 1, lr, whole),)),
                    method=rival,
                    lr=lr,
                    steps=steps,
                    seed=0,
                    device=device,
                    averaging=averaging,
                    eval_every=max(1, steps // 4),
                )
                loss = None if record.diverged else record.val_loss
                yield {"task": name, "method": rival, "lr": lr, "loss": loss}
        seconds -= time.perf_counter() - started_s


def parameters_of(task: BenchTask) -> int:
    return sum(parameter.numel() for parameter in task.build_model().parameters())


def steps_in(task: BenchTask, device: torch.device, seconds: float) -> int:
    """Return the steps that each of a task's runs may take."""
    engine = Engine(task, Solo(), device, seed=0)
    losses = engine.loss_table(24)
    taken = engine.steps(0, 24, lambda _: 1e-4, losses)
    each = step_seconds(lambda: next(taken) and None, device, 24)
    runs = len(RIVALS) * 3 + COST_OF_OURS
    return max(LEAST_STEPS, min(MOST_STEPS, int(seconds / runs / each)))


def default_run(
    task: BenchTask, interval: tuple[float, float], steps: int, device: torch.device
) -> dict[str, Any]:
    """Train with the default, the search in this process."""
    config = AutoLRSConfig(total_steps=steps, lr=interval)
    config = config.resolve(global_batch_size=task.global_batch_size)
    plan, state = config.plan(), RunState()
    worker = Worker(task, config.training_settings(), Solo(), device)
    worker.take_snapshot(0)
    worker.check_first_loss()
    event: Event = Ready(step=0, base_momentum=worker.replica.base_momentum)
    probe_steps, lrs, loss = 0, [], None
    while True:
        state, _ = advance(plan, state, event)
        command = outstanding(state)[0]
        match command:
            case Probe():
                event = worker.run_probe(command, lambda *_: None)
                probe_steps += len(event.training_losses)
            case Apply():
                event = worker.run_apply(command, lambda *_: None)
                if not event.diverged:
                    worker.take_snapshot(command.segment.last_step + 1)
                    lrs.append(command.segment.peak_lr)
                    named = [value for _, name, value in event.evaluations if name == "loss"]
                    loss = named[-1]
                probe_steps -= event.reused_steps
            case Finish():
                break
    return {
        "method": "default",
        "lr": lrs[-1],
        "loss": loss,
        "search steps": probe_steps,
        "lrs": lrs,
    }
