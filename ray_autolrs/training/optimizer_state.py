"""An optimizer's state as a snapshot holds it: copied, and put back in place."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ray_autolrs.training.averaging.average import parameters_of
from ray_autolrs.training.tensor_copies import CopyTensor

State = dict[str, Any]


def copied_state(
    optimizer: torch.optim.Optimizer, reuse: list[State], copy_tensor: CopyTensor
) -> State:
    """Return the groups' hyperparameters, and the state of each parameter in their order.

    ``on_gpu`` names what of each parameter's state lives on a GPU, wherever the copy does.
    """
    states: list[State] = []
    on_gpu: list[list[Any]] = []
    for place, parameter in enumerate(parameters_of(optimizer)):
        old = reuse[place] if place < len(reuse) else {}
        state = optimizer.state.get(parameter, {})
        states.append(
            {
                key: copy_tensor(value, old.get(key))
                if isinstance(value, Tensor)
                else copy.deepcopy(value)
                for key, value in state.items()
            }
        )
        on_gpu.append(
            [k for k, value in state.items() if isinstance(value, Tensor) and value.is_cuda]
        )
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    beside = {
        key: copy.deepcopy(value)
        for key, value in optimizer.state.items()
        if not isinstance(key, Tensor)
    }
    return {"groups": groups, "state": states, "on_gpu": on_gpu, "beside": beside}


def restore_state(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """Put back what :func:`copied_state` returned, in place.

    Raises:
        ValueError: it is of another optimizer.
    """
    parameters = parameters_of(optimizer)
    if (len(parameters), len(optimizer.param_groups)) != (
        len(saved["state"]),
        len(saved["groups"]),
    ):
        raise ValueError(
            f"the snapshot is of another optimizer: {len(optimizer.param_groups)} parameter groups "
            f"of {len(parameters)} parameters, and {len(saved['groups'])} of {len(saved['state'])} "
            "in the snapshot"
        )
    # torch declares the keys as tensors, but some optimizers keep values by name beside them.
    state: dict[Any, Any] = optimizer.state
    for key in [key for key in state if not isinstance(key, Tensor)]:
        del state[key]
    state.update(copy.deepcopy(saved["beside"]))
    # States of older versions have no ``on_gpu``: they come from where the tensors are to be.
    on_gpu = saved.get("on_gpu") or [[]] * len(parameters)
    for parameter, saved_state, moved in zip(parameters, saved["state"], on_gpu, strict=True):
        if not saved_state:
            # Optimizers build a parameter's state at its first step.
            optimizer.state.pop(parameter, None)
            continue
        current = optimizer.state[parameter]
        for key in set(current) - set(saved_state):
            del current[key]
        for key, value in saved_state.items():
            device = parameter.device if key in moved else None
            current[key] = _restored_value(value, current.get(key), device)
    for group, saved_group in zip(optimizer.param_groups, saved["groups"], strict=True):
        for key in set(group) - set(saved_group) - {"params"}:
            del group[key]
        for key, value in saved_group.items():
            if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                group[key].copy_(value)
            else:
                group[key] = copy.deepcopy(value)


def _restored_value(saved: Any, current: Any, device: torch.device | None) -> Any:
    if not isinstance(saved, Tensor):
        return copy.deepcopy(saved)
    if isinstance(current, Tensor) and (current.shape, current.dtype) == (saved.shape, saved.dtype):
        return current.copy_(saved)
    # Not all is moved: a step counter may live on the CPU while its parameter is on a GPU.
    return saved.to(device or saved.device, copy=True)
