"""What a search is told of a live loop: checked, and read off its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ray_autolrs.algorithm.field_checks import is_integer, is_number
from ray_autolrs.training.data_parallel import shards_of, wrapper_of
from ray_autolrs.training.lone_lanes import sharded_parameter


def check_model(model: object) -> torch.device:
    """Refuse what cannot be searched on, and return the model's device.

    Raises:
        ValueError: it is no module, has no parameters, is sharded but not by FSDP2, or averages
            gradients over some of the processes only.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={type(model).__name__} must be a torch.nn.Module")
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError("model has no parameters; give the one that the optimizer trains")
    sharded = sharded_parameter(model)
    if sharded is not None and not shards_of(model):
        raise ValueError(
            f"the parameter {sharded!r} of model is sharded over the processes by FSDP's first "
            "version or by tensor parallelism, whose weights find_lr cannot put back: shard it by "
            "torch.distributed.fsdp.fully_shard, or call find_lr before it is sharded"
        )
    wrapper = wrapper_of(model)
    if wrapper is not None and dist.get_world_size(wrapper.process_group) != dist.get_world_size():
        raise ValueError(
            f"model averages gradients over {dist.get_world_size(wrapper.process_group)} of "
            f"{dist.get_world_size()} processes; find_lr needs a DDP over all of them"
        )
    return first.device


def check_steps(loss: object, step: object, averaging: object) -> None:
    """Refuse ways to take a step that contradict each other.

    Raises:
        ValueError: neither ``loss`` nor ``step`` is given, or ``step`` with an average.
    """
    if loss is None and step is None:
        raise ValueError(
            "loss=None and step=None: give loss, a function of (model, batch) that returns the "
            "mean loss, or step, a function of a batch that takes one optimizer step"
        )
    for name, function in (("loss", loss), ("step", step)):
        if function is not None and not callable(function):
            raise ValueError(f"{name}={function!r} must be a function")
    if step is not None and averaging is not None:
        raise ValueError(
            f"averaging={averaging!r} needs to take the steps itself, and step is given; use loss "
            "instead, or averaging=None"
        )


def check_numbers(**numbers: Any) -> None:
    """Refuse numbers that are out of their range; each must be given by its name.

    Raises:
        ValueError: the first one that is.
    """
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "total_steps": (_is_count, "must be an integer of at least 1, or None without an end"),
        "accumulation": (_is_count, "must be an integer of at least 1"),
        "validation_samples": (_is_count, "must be an integer of at least 1, or None"),
        "seed": (lambda seed: is_integer(seed) and seed >= 0, "must be an integer of at least 0"),
        "max_grad_norm": (_is_positive, "must be positive, or None not to clip"),
        "lr": (_is_lr, "must be an interval (low, high), a positive guess, or None"),
    }
    optional = ("total_steps", "validation_samples", "max_grad_norm", "lr")
    for name, value in numbers.items():
        holds, rule = rules[name]
        if not (holds(value) or (value is None and name in optional)):
            raise ValueError(f"{name}={value!r} {rule}")


def present_lrs(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """Return the LR of each parameter group; at the foot of a warm-up, what it rises to.

    All are 0 where the optimizer was made so, to be given its LR later.

    Raises:
        ValueError: the optimizer is none, or has an LR that is no number.
    """
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(f"optimizer={type(optimizer).__name__} must be a torch.optim.Optimizer")
    groups = optimizer.param_groups
    for place, group in enumerate(groups):
        lr = group.get("lr")
        if not hasattr(lr, "__float__"):
            raise ValueError(
                f"the optimizer's parameter group {place} has lr={lr!r}, so that there is none to "
                f"find: {type(optimizer).__name__} chooses it itself; give it a number"
            )
    lrs = tuple(float(group["lr"]) for group in groups)
    if lrs[0] > 0:
        return lrs
    return tuple(float(group.get("initial_lr", group["lr"])) for group in groups)


def _is_count(value: object) -> bool:
    return is_integer(value) and isinstance(value, int) and value >= 1


def _is_positive(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and value > 0


def _is_lr(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(map(_is_positive, value)) and value[0] < value[1]
    return _is_positive(value)
