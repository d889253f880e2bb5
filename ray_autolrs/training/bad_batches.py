"""Tells bad data, or a broken model, from a bad LR: a batch is looked at again at good weights.

What is not finite there either cannot be the LR's fault. The look waits for the device, and comes
only after a loss that was not finite.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.gradient_checks import bad_gradient, counts_nothing, not_finite

UNCOUNTED: Final = "uncounted"
"""Found: no label of the micro-batch counts, so that its loss is 0 / 0. It changes nothing."""

SHOWN_SAMPLES = 32
"""Indices that a message lists."""


def examine(engine: Engine, step: int, micro: int) -> str | None:
    """Look at one micro-batch with the weights that the replica holds.

    It changes buffers and random states.

    Returns:
        ``UNCOUNTED``; what is not finite and where, in words; or None if all is finite.
    """
    replica = engine.replica
    batch = engine.batches.micro(step, micro)
    with torch.enable_grad():
        loss = replica.loss_alone(step, micro, batch)
        if counts_nothing(replica, loss):
            return UNCOUNTED
    gradient, held = bad_gradient(replica), not_finite(loss.detach())
    replica.clear_gradients()
    if gradient is None and held is None:
        return None
    samples, bad_samples = _samples(engine, step, micro)
    bad_input = next(bad_tensors(batch, "batch"), None)
    if bad_input is not None:
        name, held = bad_input
        return f"input {name} holds {held}{_listed(engine, micro, bad_samples or samples)}"
    if held is not None:
        return f"the loss is {held}, though every input is finite{_listed(engine, micro, samples)}"
    assert gradient is not None
    name, held = gradient
    return (
        f"the gradient of {name!r} holds {held}, though every input and the loss are finite"
        f"{_listed(engine, micro, samples)}"
    )


def examine_together(
    engine: Engine, share: Share, step: int, micros: Collection[int]
) -> list[str | None]:
    """Return what each of a step's micro-batches shows; every worker looks at those of its share.

    All workers of the share's group call it, and get the same. A forward pass of a sharded model
    needs them all, so there they look at all micro-batches together.
    """
    if engine.replica.is_sharded:
        return [examine(engine, step, micro) for micro in micros]
    mine = {micro: examine(engine, step, micro) for micro in micros if micro in share.micros}
    found = {micro: fault for part in share.group.gather(mine) for micro, fault in part.items()}
    return [found[micro] for micro in micros]


def first_fault(engine: Engine, step: int) -> str | None:
    """Return what is wrong with a step's batch at the weights that the replica holds.

    All workers call it, and get the same.

    Returns:
        In words; or ``UNCOUNTED`` where only some micro-batches lack a loss; or None.
    """
    found = examine_together(engine, engine.together, step, range(engine.batches.micro_batches))
    faults = [fault for fault in found if fault not in (None, UNCOUNTED)]
    if faults:
        return faults[0]
    if found.count(UNCOUNTED) == len(found):
        return no_label(engine, step)
    return UNCOUNTED if UNCOUNTED in found else None


def no_label(engine: Engine, step: int) -> str:
    """Return, in words, that the loss of a whole step is 0 / 0."""
    micros = range(engine.batches.micro_batches)
    samples = [index for micro in micros for index in _samples(engine, step, micro)[0]]
    return (
        "the loss is nan and has no gradient in any micro-batch, as where every label is ignored"
        f"{_listed(engine, None, samples)}"
    )


def fault_message(
    engine: Engine, step: int, fault: str, *, when: str = "at the weights before this LR was used"
) -> str:
    """Return the error for a step that cannot be trained on."""
    name = type(engine.replica.task).__name__
    return (
        f"step {step} cannot be trained on, and the LR is not at fault: {when}, {fault}. The data "
        f"or the model is broken ({name}.train_dataset, {name}.collate, {name}.loss): mend it, or "
        f"set {name}.on_bad_batch='skip' to leave such steps out"
    )


def bad_tensors(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each tensor, array or number that is not finite, and what it holds."""
    if isinstance(value, (float, np.floating)) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "fc"
    ):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        held = not_finite(value)
        if held is not None:
            yield path, held
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from bad_tensors(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from bad_tensors(item, f"{path}[{place}]")
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for name, item in vars(value).items():
            yield from bad_tensors(item, f"{path}.{name}")


def _samples(engine: Engine, step: int, micro: int) -> tuple[list[int], list[int]]:
    """Return the indices of a micro-batch's samples, and of those that hold a bad number."""
    if not isinstance(engine.batches, StepBatches):
        return [], []
    indices, samples = engine.batches.samples(step, micro)
    bad = [
        index
        for index, sample in zip(indices, samples, strict=False)
        if next(bad_tensors(sample, ""), None) is not None
    ]
    return indices, bad


def _listed(engine: Engine, micro: int | None, samples: list[int]) -> str:
    if not samples:  # They are of a stream.
        return "" if micro is None else f"; micro-batch {micro}, read by worker {engine.group.rank}"
    shown = ", ".join(map(str, samples[:SHOWN_SAMPLES]))
    more = ", ..." if len(samples) > SHOWN_SAMPLES else ""
    return f"; samples of train_dataset: {shown}{more}"
