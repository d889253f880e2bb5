"""The learning-rate (LR) range test: one short run whose LR rises from tiny to far too large.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Its LR
rises linearly; ours rises exponentially (fastai's and most later versions), because the search
interval of AutoLRS spans decades: step i has the LR η_0 (η_n / η_0)^(i / n).
:mod:`ray_autolrs.algorithm.search.lr_interval` reads the interval off the losses.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ray_autolrs.algorithm.field_checks import is_integer
from ray_autolrs.algorithm.search.lr_interval import has_risen, read_interval, smooth
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine

logger = logging.getLogger(__name__)

MIN_STEPS = 20
"""Fewest steps of a range test. Ours: twice what the smoothed loss averages over."""

Ending = Literal["lr_end", "loss_rose", "not_finite"]


@dataclass(frozen=True, slots=True)
class RangeTestResult:
    """The interval that a range test found, and its curve.

    Attributes:
        lr_min: lower end of the interval.
        lr_max: upper end of the interval.
        lrs: LR of the first parameter group, for each step that was taken.
        losses: mean loss of each step, before its update; all finite.
        ending: why the test ended: the last LR, a loss far above its best, or a loss that is
            not finite (which ``losses`` leaves out).
    """

    lr_min: float
    lr_max: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    ending: Ending

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses over the LR with the interval shaded, and write the image."""
        from matplotlib.figure import Figure  # without pyplot: no window, nothing global

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, alpha=0.4, label="loss")
        axes.plot(self.lrs, smooth(self.losses), label="smoothed")
        axes.axvspan(self.lr_min, self.lr_max, alpha=0.1, color="green", label="interval")
        axes.set(xlabel="learning rate", ylabel="training loss", xscale="log")
        # The last losses of a diverging run would flatten all others.
        smoothed = smooth(self.losses)
        low = min(smoothed)
        high = max(smoothed[: smoothed.index(low) + 1])
        axes.set_ylim(low - (high - low) / 2, high + (high - low) / 2)
        axes.legend()
        figure.savefig(os.fspath(path))


def lr_range_test(
    task: TrainingTask,
    *,
    lr_start: float = 1e-7,
    lr_end: float = 10.0,
    steps: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 1,
) -> RangeTestResult:
    """Find the interval that AutoLRS searches, with one short run of a new model.

    The model is built, trained and dropped here; the caller's random states are put back. The
    same task and seed give the same result on the same device.

    Args:
        task: what to train. Its parameter groups keep the ratio of their LRs.
        lr_start: LR of the first parameter group in the first step.
        lr_end: its LR in the last step, if the run gets there.
        steps: optimizer steps from ``lr_start`` to ``lr_end``, at least 20.
        seed: seeds the model, the batches and the random numbers, as a run with this seed.
        device: where the model lives.
        num_workers: the global batch is cut into micro-batches as for this many workers, and
            their gradients are accumulated: each pass then needs a worker's memory.

    Returns:
        The interval and the curve it was read from.

    Raises:
        ValueError: an argument or a setting of the task is out of its range; the loss is not
            finite within the first steps; or it never falls. The message says what to do.
    """
    _check_arguments(lr_start, lr_end, steps, seed)
    lrs, device = _rising_lrs(lr_start, lr_end, steps), torch.device(device)
    with _random_states_kept(device):
        losses, ending = _train(task, lrs, seed, device, num_workers)
    lr_min, lr_max = read_interval(lrs, losses)
    logger.info(
        "LR range test of %s: %d of %d steps, ended by %s; interval %.3g to %.3g",
        type(task).__name__,
        len(losses),
        steps,
        ending,
        lr_min,
        lr_max,
    )
    if lr_max == lr_end:
        logger.warning(
            "the loss of %s was still falling at lr_end=%g; raise it to see where the loss rises",
            type(task).__name__,
            lr_end,
        )
    return RangeTestResult(lr_min, lr_max, tuple(lrs[: len(losses)]), tuple(losses), ending)


def _train(
    task: TrainingTask, lrs: list[float], seed: int, device: torch.device, num_workers: int
) -> tuple[list[float], Ending]:
    """Train a new model with these LRs until one is too large, and return its losses."""
    engine = Engine(task, Solo(), device, seed=seed, num_workers=num_workers)
    table = engine.loss_table(len(lrs))
    losses: list[float] = []
    for done in engine.steps(0, len(lrs), lrs.__getitem__, table):
        loss = float(table[done - 1].mean())
        if not math.isfinite(loss):
            return losses, "not_finite"
        losses.append(loss)
        if has_risen(losses, len(lrs)):
            return losses, "loss_rose"
    return losses, "lr_end"


def _rising_lrs(lr_start: float, lr_end: float, steps: int) -> list[float]:
    exponent = math.log(lr_end / lr_start) / (steps - 1)
    return [*(lr_start * math.exp(exponent * step) for step in range(steps - 1)), lr_end]


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """Put the global random states back at the end: Python's, NumPy's, PyTorch's on each device."""
    python, numpy = random.getstate(), np.random.get_state()
    uses_cuda = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if uses_cuda else ()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _check_arguments(lr_start: float, lr_end: float, steps: int, seed: int) -> None:
    for name, lr in (("lr_start", lr_start), ("lr_end", lr_end)):
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"{name}={lr!r} must be positive and finite")
    if not lr_start < lr_end:
        raise ValueError(f"lr_start={lr_start!r} must be smaller than lr_end={lr_end!r}")
    for name, value, minimum in (("steps", steps, MIN_STEPS), ("seed", seed, 0)):
        if not is_integer(value) or value < minimum:
            raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")
