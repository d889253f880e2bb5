"""What an LR means once an optimizer's momentum is turned off, so that the average takes its place.

SGD with momentum μ moves the weights 1/(1 - μ) times as far as without, so that its LR is
multiplied with that, and RMSprop's too: a search interval and a schedule mean the same with and
without averaging. Adam, Lion and their kind take a mean of gradients with weights that add up to
one (``betas``), Muon one whose length it divides out, and Adagrad and Adadelta have no momentum:
their LRs stay. What another optimizer's ``momentum`` does is measured.

RMSprop divides by the root of a mean of squared gradients that begins at zero: its first step
is 1/√(1 - α) times as long as its LR says, ten times by default. An average keeps early steps
for long, and short probes are made of them, so that the LR of step t (from 0) is multiplied
with √(1 - α^(t + 1)), which is Adam's correction for the same bias (Kingma & Ba 2015,
section 3).
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer, RMSprop

from ray_autolrs.training.averaging.average import STEPS

MUON: tuple[type[Optimizer], ...] = (
    (torch.optim.Muon,) if hasattr(torch.optim, "Muon") else ()  # torch has it since 2.9
)

HEAVY_BALL = (SGD, RMSprop)
"""They add up gradients: a constant one moves the weights 1/(1 - μ) times as far."""

MEASURED_LR = 1e-4
"""Small enough that the weights hardly change while steps are measured."""

MOST_MEASURED_STEPS = 10_000
"""Ours: enough for a momentum of 0.999 to reach its full length."""


def momentum_of(group: dict[str, Any]) -> float:
    """Return a parameter group's momentum, which Adam and its kind call their first beta."""
    return float(group.get("momentum") or group.get("betas", (0.0,))[0])


def turn_momentum_off(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """Take a parameter group's momentum away, and return the factor that its LR lacks then.

    Raises:
        ValueError: the momentum is 1 or larger, or what it does cannot be told.
    """
    off = _without_momentum(group)
    factor = _momentum_factor(optimizer, group, off)
    group.update(off)
    if isinstance(optimizer, HEAVY_BALL):
        for parameter in group["params"]:
            # Nothing reads it any more, and it is as large as the parameter.
            optimizer.state.get(parameter, {}).pop("momentum_buffer", None)
    return factor


def bias_factor(optimizer: Optimizer, group: dict[str, Any], step: int) -> float:
    """Return what the LR of a group's step, from 0, is multiplied with beside that."""
    smoothing = group["alpha"] if isinstance(optimizer, RMSprop) else 0.0
    return math.sqrt(1 - smoothing ** (step + 1))


def applied_lr(optimizer: Optimizer) -> float:
    """Return the LR that the first parameter group's last step was made with.

    Args:
        optimizer: a run's, after a step. Where it is Schedule-Free averaging, it multiplies the LR
            that it was given with the factors of this module within the step.
    """
    group = optimizer.param_groups[0]
    lr = float(group["lr"])
    if "lr_factor" not in group:
        return lr
    base: Optimizer = getattr(optimizer, "base", optimizer)
    return lr * float(group["lr_factor"]) * bias_factor(base, group, group[STEPS] - 1)


def _without_momentum(group: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
    off = {name: value for name, value in settings.items() if name in group}
    if "betas" in group:
        off["betas"] = (0.0, *group["betas"][1:])
    return off


def _momentum_factor(optimizer: Optimizer, group: dict[str, Any], off: dict[str, Any]) -> float:
    momentum = group.get("momentum") or 0.0
    if momentum == 0 or isinstance(optimizer, MUON):
        return 1.0
    name = type(optimizer).__name__
    if not 0 < momentum < 1:
        raise ValueError(
            f"{name} has momentum={momentum!r}; it must lie in [0, 1): steps of others have no "
            "length that an LR could keep"
        )
    if isinstance(optimizer, HEAVY_BALL):
        return float((1 - group.get("dampening", 0.0)) / (1 - momentum))
    cause: Exception | None = None
    try:
        steps = min(MOST_MEASURED_STEPS, math.ceil(math.log(1e-6) / math.log(momentum)))
        with_it = _step_length(optimizer, group, steps)
        factor = with_it / _step_length(optimizer, {**group, **off}, steps)
    except Exception as error:  # the optimizer is unknown, and so is what it raises
        factor, cause = math.nan, error
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"what momentum={momentum!r} of {name} does to the length of its steps could not be "
            "measured, so that its LRs would mean another thing without; build it with momentum=0"
        ) from cause
    return factor


def small_twin(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Optimizer:
    """Return an optimizer of the same kind for one parameter, to see what its steps do.

    Step it by ``type(it).step(it)``: an LR scheduler may have put its own step on the instance.
    """
    twin = object.__new__(type(optimizer))
    vars(twin).update(vars(optimizer))
    twin._optimizer_step_pre_hooks = OrderedDict()
    twin._optimizer_step_post_hooks = OrderedDict()
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [parameter], "lr": MEASURED_LR}]
    return twin


def _step_length(optimizer: Optimizer, group: dict[str, Any], steps: int) -> float:
    """Return the length of the last of some steps along the same gradient, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    weights, gradient = torch.randn(2, 4, 4, dtype=torch.float64, generator=generator)
    parameter = torch.nn.Parameter(weights)
    twin = small_twin(optimizer, group, parameter)
    before = weights
    for _ in range(steps):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        type(optimizer).step(twin)
    return float((parameter.detach() - before).norm())
