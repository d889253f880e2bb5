"""A task's model, split over the workers by FSDP2, and gathered again on rank 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.batch_norm import running_norms
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.data_parallel import is_split, shards_of

State = dict[str, Any]


def sharded(task: TrainingTask, module: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """Split a new module over the group as its task says; with ``"ddp"`` it stays as it is.

    Every worker gets parts of rank 0's weights, as DDP would give it all of them.

    Raises:
        ValueError: the module has a BatchNorm, or a parameter that is not sharded in the end, or
            is sharded although the task says ``"ddp"``.
    """
    name, is_sharded = type(task).__name__, bool(shards_of(module))
    if task.parallelism == "ddp":
        if is_sharded:
            raise ValueError(
                f"{name}.build_model returned a model that is sharded, and {name}.parallelism is "
                "'ddp'; set it to 'fsdp2'"
            )
        return module
    mesh = group.mesh()
    if mesh is None:
        return module
    norms = running_norms(module)
    if norms:
        place = next(place for place, layer in module.named_modules() if layer is norms[0])
        raise ValueError(
            f"{name}.parallelism='fsdp2' and the model's {place!r} is a "
            f"{type(norms[0]).__name__}: FSDP2 neither shards its running statistics nor keeps "
            "them equal on the workers; use LayerNorm or GroupNorm, or parallelism='ddp'"
        )
    if not is_sharded:
        for tensor in [*module.parameters(), *module.buffers()]:
            # One at a time: the device may not hold all of them.
            value = tensor.detach().to(device)
            group.broadcast_([value])
            tensor.detach().copy_(value)
        task.shard(module, mesh)
    for place, parameter in module.named_parameters():
        if not is_split(parameter):
            raise ValueError(
                f"{name}.shard left the parameter {place!r} whole on each worker, and nobody would "
                "average its gradients; call fully_shard on the model, after its blocks"
            )
    return module


def mesh_of(module: nn.Module) -> DeviceMesh | None:
    """Return what a module is sharded over; None if each worker holds it all."""
    for parameter in module.parameters():
        if is_split(parameter):
            return parameter.device_mesh
    return None


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all workers, who all call it; others as they are."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def state_on_cpu(module: nn.Module) -> State:
    """Return a copy of a module's ``state_dict`` on the CPU.

    Of a sharded module all workers call it; it is gathered one tensor at a time, and those other
    than rank 0 get {}.
    """
    if shards_of(module):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_model_state_dict(module, options=options))
    return {name: _copied(value) for name, value in module.state_dict().items()}


def _copied(value: Any) -> Any:
    # A module's extra state may be any object; the tensors are what training changes in place.
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
