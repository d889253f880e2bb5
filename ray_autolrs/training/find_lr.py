"""The search as a call, for any PyTorch loop: which learning rate (LR) suits what is there now.

The search is the one that a run makes at the start of a stage, by the same stage machine, on the
user's live objects. Each probe begins at the state that the objects are in and sees the same
batches; afterwards everything is as it was, to the bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.collectives import Group, ProcessGroup, Solo
from ray_autolrs.training.data_parallel import reshard
from ray_autolrs.training.found_lr import FoundLR
from ray_autolrs.training.kept_state import state_kept
from ray_autolrs.training.live_arguments import (
    check_model,
    check_numbers,
    check_steps,
    present_lrs,
)
from ray_autolrs.training.live_loop import LiveLoop, Loss
from ray_autolrs.training.live_search import LiveSearch
from ray_autolrs.training.parts import OwnStep, Parts
from ray_autolrs.training.ready_batches import (
    NoValidation,
    ReadyBatches,
    ReadyValidation,
    Tape,
)
from ray_autolrs.training.settings import Validation

logger = logging.getLogger(__name__)


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    train_batches: Iterable[Any],
    total_steps: int | None,
    loss: Loss | None = None,
    step: Callable[[Any], Any] | None = None,
    val_batches: Iterable[Any] | None = None,
    lr: float | tuple[float, float] | None = None,
    search: SearchStrategy | None = None,
    averaging: Averaging | None = None,
    stages: Stages | None = None,
    accumulation: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    max_grad_norm: float | None = None,
    validation_samples: int | None = None,
    seed: int = 0,
    keep: Sequence[Any] = (),
) -> FoundLR:
    """Find the learning rate for the steps that a loop is going to take.

    It may be called before the first step or at any later moment: it searches from the state
    that is there, and leaves model, optimizer, scaler, gradients and random states as they were.
    With ``torch.distributed`` every process calls it, each with batches of its own, and all get
    the same answer: a model that is not wrapped yet is wrapped in DDP for the search.

    Args:
        model: what is trained, on its device; compiled or wrapped in DDP as the loop has it.
        optimizer: over its parameters. Its groups keep the ratio of their present LRs.
        train_batches: batches as the loop reads them. They are read once and kept in host
            memory for all probes; ``FoundLR.batches`` hands them back, with the rest.
        total_steps: optimizer steps that the LR is for, from now on; None without a known end.
        loss: returns the mean loss, of shape (), of a model and a batch, under whatever
            ``autocast`` it opens. The batch lies on the model's device.
        step: takes one optimizer step in the loop's own way, at the LR that is set, and returns
            its loss. It is given a batch, or with ``accumulation`` a list of them, as
            ``train_batches`` gave them. Without ``loss`` probes are judged by what it returns.
        val_batches: batches to judge probes on. None holds the first of ``train_batches`` out.
        lr: the interval to search, (low, high), or a guess to search around, which may be off by
            a factor of 300. None takes the optimizer's present LR as the guess, or finds an
            interval by an LR range test where that is 0 or ``search`` takes no guess.
        search: which LRs are tried; None is ``Bracket()``.
        averaging: an average of the weights to judge at, put around the optimizer for the
            search. None judges what the optimizer trains.
        stages: of a search that looks as far as a stage, such as ``GaussianProcess``.
        accumulation: batches in a step, on each process.
        scaler: the loop's gradient scaler.
        max_grad_norm: gradients are clipped to this norm, as in the loop; None does not clip.
        validation_samples: samples to judge probes on, over all processes, in whole batches.
            None is 16 global batches, at most 512.
        seed: of the model's random numbers in each step.
        keep: further objects, with ``state_dict`` and ``load_state_dict``, that ``loss`` or
            ``step`` changes, such as a scheduler: they are put back as well.

    Raises:
        ValueError: an argument is refused, batches end too early, or the loss is not finite; the
            message says what to do.
        SearchFailedError: every LR that was tried diverged.
    """
    started_s = time.perf_counter()
    check_steps(loss, step, averaging)
    check_numbers(
        lr=lr,
        total_steps=total_steps,
        accumulation=accumulation,
        max_grad_norm=max_grad_norm,
        validation_samples=validation_samples,
        seed=seed,
    )
    device = check_model(model)
    group: Group = Solo()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        group = ProcessGroup(device)
    reshard(model)  # An evaluation may have left it whole.
    with state_kept(model, optimizer, scaler, (train_batches, val_batches), keep):
        if not model.training:  # One that trains may have frozen layers, which stay so.
            model.train()
        lrs = group.broadcast_object(present_lrs(optimizer))
        parts = Parts(
            model,
            optimizer,
            scaler or torch.amp.GradScaler(device.type, enabled=False),
            lrs if any(lrs) else (1.0,) * len(lrs),
            _own_step(step),
        )
        tape = Tape(train_batches)
        val_tape = tape if val_batches is None else Tape(val_batches, repeats=False)
        tape.require(1, group)
        batch_size = tape.samples(0)
        global_batch_size = batch_size * accumulation * group.size
        held_out = 0
        validation: NoValidation | ReadyValidation = NoValidation()
        if loss is not None:
            resolved = Validation(probe_samples=validation_samples).resolve(global_batch_size)
            assert resolved.probe_samples is not None
            count = val_tape.read_samples(-(-resolved.probe_samples // group.size))
            held_out = count if val_tape is tape else 0
            validation = ReadyValidation(val_tape, count, group)
            tape.require(held_out + accumulation, group)
        loop = LiveLoop(
            parts,
            ReadyBatches(tape, first=held_out, per_step=accumulation, group=group),
            validation,
            loss,
            batch_size=batch_size,
            max_grad_norm=max_grad_norm,
        )
        live = LiveSearch(
            loop,
            group,
            device,
            search=search or Bracket(),
            averaging=averaging and averaging.resolve(global_batch_size),
            stages=stages or Stages(),
            total_steps=total_steps,
            lr=lr,
            guess=lrs[0],
            seed=seed,
        )
        live.announce(tape, val_tape)
        phase = live.run()
    return live.found(phase, tape, wall_s=time.perf_counter() - started_s)


def _own_step(step: Callable[[Any], Any] | None) -> OwnStep | None:
    """Return a step that is given one batch, or a list of those that it accumulates over."""
    if step is None:
        return None

    def take(batches: Sequence[Any]) -> Any:
        loss = step(batches[0] if len(batches) == 1 else list(batches))
        if loss is None:
            raise ValueError("step returned None; it must return the loss of its batch")
        return loss

    return take
