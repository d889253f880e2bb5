"""Whether a model can take a step on one worker alone."""

from __future__ import annotations

from torch import nn


def lone_lane_obstacle(module: nn.Module) -> str | None:
    """Return why a worker cannot train the model without the others, or None if it can."""
    for name, submodule in module.named_modules():
        if isinstance(submodule, nn.SyncBatchNorm):
            return f"{name!r} is a SyncBatchNorm, whose forward pass waits for every worker"
    sharded = sharded_parameter(module)
    if sharded is not None:
        return f"the parameter {sharded!r} is sharded over the workers"
    return None


def sharded_parameter(module: nn.Module) -> str | None:
    """Return the name of a parameter of which each worker holds a part, or None."""
    for name, parameter in module.named_parameters():
        # DTensor is what fully_shard and tensor parallelism make of a parameter; FSDP's first
        # version flattens them.
        kind = type(parameter.data).__name__
        if kind == "DTensor" or name.rpartition(".")[2] == "_flat_param":
            return name
    return None
