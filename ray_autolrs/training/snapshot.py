"""Capture and restore of everything that training changes.

Restored, bit for bit
    parameters and buffers (non-persistent ones too), and modules' extra state
    optimizer state (of parameters, and what lies beside it) and every parameter group's
    hyperparameters
    the average of the weights, and the path of the weights where it is followed
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

from ray_autolrs.training.averaging.average import WeightAverage
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.memory import belongs_on_host, tensor_bytes
from ray_autolrs.training.optimizer_state import copied_state, restore_state
from ray_autolrs.training.plain_state import as_plain, from_plain
from ray_autolrs.training.random_streams import random_states, set_random_states
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.tensor_copies import CopyTensor, to_host, within_device

State = dict[str, Any]


class Snapshot:
    """The state of a replica before the step numbered ``step``.

    A second capture writes into the memory of the first, where shapes agree.

    Args:
        in_host_memory: copy the tensors of the model, the optimizer and the average to host
            memory, rather than within their device's; None does as the task's ``snapshot_place``
            says.
    """

    def __init__(self, *, in_host_memory: bool | None = None) -> None:
        self.step = -1
        self._in_host_memory = in_host_memory
        self._state: State = {}

    @torch.no_grad()
    def capture(self, replica: Replica, step: int) -> None:
        """Copy the replica's state. When it returns, the replica may change."""
        self.step = step
        on_host = self._in_host_memory
        if on_host is None:
            on_host = belongs_on_host(replica, lambda: self._bytes_on(replica.device))
        self._take(replica, to_host if on_host else within_device)
        if replica.device.type == "cuda":
            torch.cuda.current_stream(replica.device).synchronize()

    def lend(self, replica: Replica, step: int) -> None:
        """Hold the replica's own tensors, to be read before it changes."""
        self.step = step
        self._state = {}
        self._take(replica, lambda tensor, _: tensor.detach())

    def _take(self, replica: Replica, copied: CopyTensor) -> None:
        old = self._state
        path = [] if replica.path is None else replica.path.tensors
        self._state = {
            "tensors": {
                name: copied(tensor, old.get("tensors", {}).get(name))
                for name, tensor in _module_tensors(replica.module)
            },
            "extra": copy.deepcopy(_extra_state(replica.module)),
            "optimizer": copied_state(
                replica.optimizer, old.get("optimizer", {}).get("state", []), copied
            ),
            "average": {
                "kind": type(replica.average).__name__,
                "tensors": [
                    copied(tensor, before)
                    for tensor, before in zip_longest(
                        replica.average.tensors, old.get("average", {}).get("tensors", [])
                    )
                ],
                "updates": replica.average.updates,
            },
            "path": [
                copied(tensor, before)
                for tensor, before in zip(path, old.get("path") or [None] * len(path), strict=True)
            ],
            "scaler": replica.scaler.state_dict(),
            "random": random_states([replica.device]),
        }

    def _bytes_on(self, device: torch.device) -> int:
        """Return what the last capture holds on a device."""
        if not self._state:
            return 0
        own = (value for own in self._state["optimizer"]["state"] for value in own.values())
        held = [*self._state["tensors"].values(), *self._state["average"]["tensors"], *own]
        return tensor_bytes(v for v in held if isinstance(v, Tensor) and v.device == device)

    def restore(self, replica: Replica) -> int:
        """Put the state back, in place, and return the step that it was taken before.

        Raises:
            ValueError: the state is that of another model or optimizer, as it can be where it
                comes from an older run's file.
        """
        assert self.step >= 0, "restore before capture"
        state = self._state
        _restore_tensors(replica.module, state["tensors"], replica.device)
        for name, extra in state["extra"].items():
            replica.module.get_submodule(name).set_extra_state(copy.deepcopy(extra))
        if replica.path is not None:
            replica.path.let_go()
        restore_state(replica.optimizer, state["optimizer"])
        _restore_average(replica.average, state["average"])
        if replica.path is not None and state["path"]:
            for tensor, value in zip(replica.path.tensors, state["path"], strict=True):
                tensor.copy_(value)
        else:  # A way that was not followed from the first step on says nothing.
            replica.path = None
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


def _restore_tensors(module: nn.Module, saved: dict[str, Tensor], device: torch.device) -> None:
    modules = dict(module.named_modules())
    present = {name for name, _ in _module_tensors(module)}
    for name in sorted(present ^ set(saved)):
        owner, _, key = name.rpartition(".")
        buffers = modules[owner]._buffers if owner in modules else {}
        if key not in buffers:
            raise ValueError(f"the snapshot is of another model: only one of them has {name!r}")
        # A buffer may be None, which is no tensor, until it is first used.
        buffers[key] = saved[name].to(device, copy=True) if name in saved else None
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


def _extra_state(module: nn.Module) -> dict[str, Any]:
    """Return what modules with ``get_extra_state`` keep beside their tensors, by module name."""
    return {
        name: submodule.get_extra_state()
        for name, submodule in module.named_modules()
        if type(submodule).get_extra_state is not nn.Module.get_extra_state
    }


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
