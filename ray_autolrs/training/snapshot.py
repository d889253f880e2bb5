"""Capture and restore of everything that training changes.

Restored, bit for bit
    parameters and buffers (non-persistent ones too), and modules' extra state
    optimizer state (of parameters, and what lies beside it) and every parameter group's
    hyperparameters
    the average of the weights
    gradient scaler
    random states of Python, NumPy, PyTorch on the CPU and on the replica's GPU
    data position: the step, from which batches are addressed

Not restored
    gradients: they are emptied, as every step begins by doing so
    train or eval mode: every step and every evaluation sets its own
    what a module keeps in plain attributes, ``requires_grad`` included: use a buffer, or
    ``get_extra_state`` and ``set_extra_state``
    what an optimizer keeps outside of ``state`` and ``param_groups``, as wrappers of another
    optimizer do
    what a dataset keeps between reads
    random generators that a task keeps for itself: draw from the global ones, which are
    seeded by step, or seed them by the batch

Restoring is in place, by ``copy_``: tensors keep their storage, so DDP's buckets, fused
optimizers and captured graphs stay valid, and no object shared with another process is written
to. The LR is part of the optimizer's state: set the new one after restoring.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ray_autolrs.training.averaging.average import WeightAverage, parameters_of
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.plain_state import as_plain, from_plain
from ray_autolrs.training.random_streams import random_states, set_random_states
from ray_autolrs.training.replica import Replica

State = dict[str, Any]


class Snapshot:
    """The state of a replica before the step numbered ``step``.

    A second capture writes into the memory of the first, where shapes agree.
    """

    def __init__(self) -> None:
        self.step = -1
        self._state: State = {}

    def capture(self, replica: Replica, step: int) -> None:
        """Copy the replica's state, on its own device."""
        self.step = step
        self._state = {
            "tensors": _copy_tensors(
                _module_tensors(replica.module), self._state.get("tensors", {})
            ),
            "extra": copy.deepcopy(_extra_state(replica.module)),
            "optimizer": _copy_optimizer(
                replica.optimizer, self._state.get("optimizer", {}).get("state", [])
            ),
            "average": {
                "kind": type(replica.average).__name__,
                "tensors": [
                    _copy_tensor(tensor, old)
                    for tensor, old in zip_longest(
                        replica.average.tensors, self._state.get("average", {}).get("tensors", [])
                    )
                ],
                "updates": replica.average.updates,
            },
            "scaler": replica.scaler.state_dict(),
            "random": random_states([replica.device]),
        }

    def restore(self, replica: Replica) -> int:
        """Put the state back, in place, and return the step that it was taken before.

        Raises:
            ValueError: the state is that of another model or optimizer, as it can be where it
                comes from an older run's file.
        """
        assert self.step >= 0, "restore before capture"
        state = self._state
        _restore_tensors(replica.module, state["tensors"])
        for name, extra in state["extra"].items():
            replica.module.get_submodule(name).set_extra_state(copy.deepcopy(extra))
        _restore_optimizer(replica.optimizer, state["optimizer"])
        _restore_average(replica.average, state["average"])
        replica.clear_gradients()
        if replica.scaler.is_enabled():
            replica.scaler.load_state_dict(state["scaler"])
        set_random_states(state["random"], [replica.device])
        return self.step

    def state_dict(self) -> State:
        """Return the captured state as plain data; it shares its tensors.

        It can be saved with ``torch.save``, and loaded with ``weights_only=True``.

        Raises:
            ValueError: a module's extra state or the optimizer's state is no plain data
                (:mod:`ray_autolrs.training.plain_state`); the message names it.
        """
        arrays = {"optimizer": as_plain(self._state["optimizer"], "optimizer", arrays=True)}
        # Not replaced, because the saved model holds them as they are: only refused.
        as_plain(self._state["tensors"], "the model", arrays=False)
        for name, extra in self._state["extra"].items():
            as_plain(extra, f"get_extra_state() of the module {name!r}", arrays=False)
        return {"step": self.step, **self._state, **arrays}

    def load_state_dict(self, state: State) -> None:
        """Take over a state that :meth:`state_dict` returned, perhaps in another process."""
        self.step = state["step"]
        self._state = {key: value for key, value in state.items() if key != "step"}
        self._state["optimizer"] = from_plain(state["optimizer"])


def share_buffers(module: nn.Module, group: Group) -> None:
    """Give every worker rank 0's buffers, such as BatchNorm's running statistics.

    Call it before buffers are read: before a snapshot and before an evaluation.
    """
    group.broadcast_(module.buffers())


def _module_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        yield name, parameter.data
    for name, buffer in module.named_buffers():
        yield name, buffer


def _restore_tensors(module: nn.Module, saved: dict[str, Tensor]) -> None:
    modules = dict(module.named_modules())
    present = {name for name, _ in _module_tensors(module)}
    for name in sorted(present ^ set(saved)):
        owner, _, key = name.rpartition(".")
        buffers = modules[owner]._buffers if owner in modules else {}
        if key not in buffers:
            raise ValueError(f"the snapshot is of another model: only one of them has {name!r}")
        # A buffer may be None, which is no tensor, until it is first used.
        buffers[key] = saved[name].clone() if name in saved else None
    for name, buffer in [*module.named_buffers()]:
        if buffer.shape != saved[name].shape:
            # An observer's buffer, say, gets its shape from what it first sees.
            owner, _, key = name.rpartition(".")
            modules[owner]._buffers[key] = saved[name].to(buffer.device, copy=True)
    for name, tensor in _module_tensors(module):
        value = saved[name]
        if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
            raise ValueError(
                f"the snapshot is of another model: {name!r} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, and {value.dtype} of shape {tuple(value.shape)} in the "
                "snapshot"
            )
        tensor.detach().copy_(value)


def _copy_tensors(
    tensors: Iterator[tuple[str, Tensor]], reuse: dict[str, Tensor]
) -> dict[str, Tensor]:
    return {name: _copy_tensor(tensor, reuse.get(name)) for name, tensor in tensors}


def _copy_tensor(tensor: Tensor, reuse: Tensor | None) -> Tensor:
    if reuse is not None and (reuse.shape, reuse.dtype, reuse.device) == (
        tensor.shape,
        tensor.dtype,
        tensor.device,
    ):
        return reuse.copy_(tensor.detach())
    return tensor.detach().clone()


def _extra_state(module: nn.Module) -> dict[str, Any]:
    """Return what modules with ``get_extra_state`` keep beside their tensors, by module name."""
    return {
        name: submodule.get_extra_state()
        for name, submodule in module.named_modules()
        if type(submodule).get_extra_state is not nn.Module.get_extra_state
    }


def _copy_optimizer(optimizer: torch.optim.Optimizer, reuse: list[State]) -> State:
    """Return the groups' hyperparameters, and the state of each parameter in their order."""
    states: list[State] = []
    for place, parameter in enumerate(parameters_of(optimizer)):
        old = reuse[place] if place < len(reuse) else {}
        states.append(
            {
                key: _copy_value(value, old.get(key))
                for key, value in optimizer.state.get(parameter, {}).items()
            }
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
    return {"groups": groups, "state": states, "beside": beside}


def _copy_value(value: Any, reuse: Any) -> Any:
    if isinstance(value, Tensor):
        return _copy_tensor(value, reuse if isinstance(reuse, Tensor) else None)
    return copy.deepcopy(value)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
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
    for parameter, saved_state in zip(parameters, saved["state"], strict=True):
        if not saved_state:
            # Optimizers build a parameter's state at its first step.
            optimizer.state.pop(parameter, None)
            continue
        current = optimizer.state[parameter]
        for key in set(current) - set(saved_state):
            del current[key]
        for key, value in saved_state.items():
            current[key] = _restored_value(value, current.get(key))
    for group, saved_group in zip(optimizer.param_groups, saved["groups"], strict=True):
        for key in set(group) - set(saved_group) - {"params"}:
            del group[key]
        for key, value in saved_group.items():
            if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                group[key].copy_(value)
            else:
                group[key] = copy.deepcopy(value)


def _restore_average(average: WeightAverage, saved: State) -> None:
    kind = type(average).__name__
    if (kind, len(average.tensors)) != (saved["kind"], len(saved["tensors"])):
        raise ValueError(
            f"the snapshot is of another average of the weights: {kind} of {len(average.tensors)} "
            f"tensors, and {saved['kind']} of {len(saved['tensors'])} in the snapshot"
        )
    for tensor, value in zip(average.tensors, saved["tensors"], strict=True):
        tensor.copy_(value)
    average.updates = saved["updates"]


def _restored_value(saved: Any, current: Any) -> Any:
    if not isinstance(saved, Tensor):
        return copy.deepcopy(saved)
    if isinstance(current, Tensor) and (current.shape, current.dtype) == (saved.shape, saved.dtype):
        return current.copy_(saved)
    # Not moved: a step counter may live on the CPU while its parameter is on a GPU.
    return saved.clone()
