"""A user's own objects, left as they were found: to the bit, and the same tensors as before.

Kept
    parameters and buffers, gradients, and every optimizer state and hyperparameter
    what modules and the optimizer hold in plain attributes (numbers, strings, train or eval mode)
    modules' extra state, and the gradient scaler
    random states of Python, NumPy and PyTorch, and the generators of ``DataLoader``s
    whatever else has ``state_dict`` and ``load_state_dict`` and is named

Not kept
    other attributes of modules and optimizers, such as lists
    what a closure of the user changes elsewhere: name it, or leave it out

Copies lie in host memory: the search's own snapshot already takes the device's.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_autolrs.training.random_streams import random_states, set_random_states

PLAIN = (bool, int, float, complex, str, type(None))


@contextlib.contextmanager
def state_kept(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    loaders: Sequence[Any],
    others: Sequence[Any] = (),
) -> Iterator[None]:
    """Put everything back at the end, also after an error or Ctrl-C.

    Args:
        module: the model.
        optimizer: its optimizer.
        scaler: its gradient scaler.
        loaders: what batches are read from: the states of their own generators are kept.
        others: further objects with ``state_dict`` and ``load_state_dict``.
    """
    restores: list[Callable[[], None]] = [
        _Attributes(module, optimizer),
        _Tensors(module),
        _Gradients(module),
        _OptimizerState(optimizer),
        _Stated([*([scaler] if scaler is not None else []), *others]),
        _Generators(loaders),
    ]
    states = random_states()
    try:
        yield
    finally:
        with torch.no_grad():
            for restore in restores:
                restore()
        set_random_states(states)


class _Kept:
    """A tensor and what it held."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._value = tensor.detach().to("cpu", copy=True)

    def restored(self) -> Tensor:
        self.tensor.detach().copy_(self._value)
        return self.tensor


class _Tensors:
    def __init__(self, module: nn.Module) -> None:
        self._parameters = [_Kept(parameter) for parameter in module.parameters()]
        self._buffers = [
            (layer, name, None if buffer is None else _Kept(buffer))
            for layer in module.modules()
            for name, buffer in layer._buffers.items()
        ]
        self._extra = [
            (layer, copy.deepcopy(layer.get_extra_state()))
            for layer in module.modules()
            if type(layer).get_extra_state is not nn.Module.get_extra_state
        ]

    def __call__(self) -> None:
        for parameter in self._parameters:
            parameter.restored()
        for layer, name, buffer in self._buffers:
            layer._buffers[name] = None if buffer is None else buffer.restored()
        for layer, extra in self._extra:
            layer.set_extra_state(extra)


class _Gradients:
    def __init__(self, module: nn.Module) -> None:
        # DDP writes its buckets, which the gradients may lie in: the values are kept, too.
        self._gradients = [
            (parameter, None if parameter.grad is None else _Kept(parameter.grad))
            for parameter in module.parameters()
        ]

    def __call__(self) -> None:
        for parameter, gradient in self._gradients:
            parameter.grad = None if gradient is None else gradient.restored()


class _OptimizerState:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [
            {name: _kept(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        # torch declares the keys as tensors, but some optimizers keep values by name beside them.
        state: dict[Any, Any] = dict(optimizer.state)
        self._state = {
            key: {name: _kept(value) for name, value in entry.items()}
            if isinstance(entry, dict)
            else _kept(entry)
            for key, entry in state.items()
        }

    def __call__(self) -> None:
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in [name for name in group if name not in kept and name != "params"]:
                del group[name]
            group.update({name: _restored(value) for name, value in kept.items()})
        state: dict[Any, Any] = self._optimizer.state
        for key in [key for key in state if key not in self._state]:
            del state[key]
        for key, entry in self._state.items():
            state[key] = (
                {name: _restored(value) for name, value in entry.items()}
                if isinstance(entry, dict)
                else _restored(entry)
            )


class _Attributes:
    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._plain = [
            (owner, {name: value for name, value in vars(owner).items() if type(value) in PLAIN})
            for owner in (*module.modules(), optimizer)
        ]

    def __call__(self) -> None:
        for owner, plain in self._plain:
            vars(owner).update(plain)


class _Stated:
    def __init__(self, objects: Sequence[Any]) -> None:
        self._states = [(kept, copy.deepcopy(kept.state_dict())) for kept in objects]
        # A scaler makes its tensors when it is first used; it is to be as if it were not.
        self._unused = [
            kept
            for kept in objects
            if isinstance(kept, torch.amp.GradScaler) and kept._scale is None
        ]

    def __call__(self) -> None:
        for kept, state in self._states:
            if state or not isinstance(kept, torch.amp.GradScaler):
                kept.load_state_dict(state)
        for scaler in self._unused:
            scaler._scale = scaler._growth_tracker = None


class _Generators:
    def __init__(self, loaders: Sequence[Any]) -> None:
        holders = [*loaders]
        for name in ("sampler", "batch_sampler"):
            holders += [getattr(loader, name, None) for loader in loaders]
        holders += [getattr(holder, "sampler", None) for holder in holders]
        found = (getattr(holder, "generator", None) for holder in holders)
        self._states = [
            (generator, generator.get_state())
            for generator in found
            if isinstance(generator, torch.Generator)
        ]

    def __call__(self) -> None:
        for generator, state in self._states:
            generator.set_state(state)


def _kept(value: Any) -> Any:
    return _Kept(value) if isinstance(value, Tensor) else copy.deepcopy(value)


def _restored(value: Any) -> Any:
    return value.restored() if isinstance(value, _Kept) else value
