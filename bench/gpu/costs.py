"""What steps, snapshots and evaluations cost on a device, each over what it is to be compared with.

Figures that need Ray, such as the time to a run's first step, are not among them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench import memory, probe_validation, snapshot, steps
from bench.gpu.checks import made
from bench.gpu.tasks import SmallTask
from bench.measurement import Row
from ray_autolrs.training.engine import Engine

WARM_STEPS = 4


def synchronisations(device: torch.device) -> dict[str, Any]:
    """Return whether a step waits for the device, and how many kernels it starts.

    On a CPU there is nothing to wait for, and operations are counted in place of kernels.
    """
    engine: Engine = made(SmallTask("bf16"), device).engine
    losses = engine.loss_table(WARM_STEPS + 2)
    taken = engine.steps(0, WARM_STEPS + 2, lambda _: 1e-3, losses)
    for _ in range(WARM_STEPS):
        next(taken)
    if device.type != "cuda":
        with torch.profiler.profile() as seen:
            next(taken)
        return {"waits": None, "operations": sum(event.count for event in seen.key_averages())}
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(taken)
        waits = 0
    except RuntimeError as error:
        return {"waits": str(error)}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        next(taken)
        torch.cuda.synchronize()
    kernels = sum(
        event.count
        for event in seen.key_averages()
        if not event.key.startswith(("cuda", "Memcpy", "Memset", "Activity"))
    )
    return {"waits": waits, "kernels": kernels}


def figures(device: torch.device, *, is_tiny: bool) -> Iterator[Row]:
    """Yield a figure of the table after the other."""
    rounds, taken, width = (3, 1, 8) if is_tiny else (30, 5, 512)
    yield from steps.measure(width, rounds, taken, device)
    megabytes = (1,) if is_tiny else (300,)
    yield from snapshot.measure(megabytes, 3 if is_tiny else 9, device)
    yield from probe_validation.measure(3 if is_tiny else 9, device)
    yield from memory.measure(32 if is_tiny else 4000, device)


def step_seconds(advance: Callable[[], None], device: torch.device, count: int) -> float:
    """Return the median time of a step, warm."""
    times: list[float] = []
    for _ in range(count):
        started_s = time.perf_counter()
        advance()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times[count // 2 :])
