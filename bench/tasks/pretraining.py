"""Weights that a task begins with, trained once and kept on disk.

They lie in the folder that the environment variable ``RAY_AUTOLRS_BENCH_CACHE`` names, or in
``build/bench`` of the repository, under a key: a hash of all that the weights depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.tasks.kinds import BenchTask
from ray_autolrs.training.batches import StepBatches

CACHE_FOLDER = "RAY_AUTOLRS_BENCH_CACHE"
"""Environment variable: where pre-trained weights are kept."""

_DEFAULT_FOLDER = Path(__file__).parents[2] / "build" / "bench"


def pretrained(task: BenchTask, *, steps: int, seed: int, version: int) -> Mapping[str, Tensor]:
    """Return a model's state after training with the task's optimizer at a falling LR.

    The caller's random numbers are left as they were, whether the weights were on disk or not.

    Args:
        task: builds model, optimizer and data.
        steps: to train, with the LR falling linearly to zero.
        seed: of model and batches.
        version: to be raised when the task's model, data or optimizer changes.
    """
    facts: dict[str, Any] = {
        "task": type(task).__qualname__,
        "steps": steps,
        "seed": seed,
        "version": version,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(os.environ.get(CACHE_FOLDER) or _DEFAULT_FOLDER) / f"{key}.pt"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            state = _train(task, steps, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole: another process may be about to read it.
        part = path.with_suffix(f".{os.getpid()}.part")
        torch.save(state, part)
        part.replace(path)
    loaded: Mapping[str, Tensor] = torch.load(path, map_location="cpu")
    return loaded


def _train(task: BenchTask, steps: int, seed: int) -> Mapping[str, Tensor]:
    torch.manual_seed(seed)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
    batches = StepBatches(task, micro_batch_size=task.global_batch_size, seed=seed)
    for step in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(task.loss(model, batches.micro(step, 0)))
        optimizer.step()
        fall.step()
    return model.state_dict()
