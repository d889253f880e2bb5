"""Schedule-Free averaging around any optimizer, as an optimizer of its own.

In a step, for the parameters that got a gradient (see
:mod:`ray_autolrs.training.averaging.points`)::

    x = y + (1 - 1/β) (z - y)       the average, out of the point that the parameters hold
    z = optimizer's step from z     with the gradient at y
    x = x + c (z - x)               c = t^r η² / Σ t^r η², with η the largest LR so far
    y = x + (1 - β) (z - x)

These are the steps of the ``schedulefree`` package's wrapper, to the last bit; the tests compare.
How a step is taken in few kernels is in :mod:`ray_autolrs.training.averaging.group_step`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ray_autolrs.training.averaging.average import STEPS, averages_itself, refuse_a_second_average
from ray_autolrs.training.averaging.batch_norm import kept_statistics, take_statistics
from ray_autolrs.training.averaging.group_step import GroupStep
from ray_autolrs.training.averaging.lr_factors import turn_momentum_off


@final
class ScheduleFree(Optimizer):
    """Schedule-Free averaging (Defazio et al. 2024) around any torch optimizer.

    It replaces the optimizer in a training loop; schedulers, gradient scalers and Accelerate take
    it as any other. Evaluate and save the model at the average: within :meth:`averaged`, or
    between :meth:`eval` and :meth:`train`::

        optimizer = ScheduleFree(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for batch in batches:
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        with optimizer.averaged(model, batches):  # the batches are for BatchNorm alone
            evaluate(model)

    An LR means what it means to the base optimizer: the momentum of that one is turned off,
    because interpolating towards the average takes its place, and its groups' ``lr`` are
    multiplied inside a step with what is lost (``lr_factor``). A state that was saved goes on to
    the bit, whether it was saved in training or in evaluation. A parameter that gets no gradient
    in a step is neither moved nor averaged: its average is that of the steps which it took.

    Memory: one more copy of the parameters, and another one between ``eval()`` and ``train()``. Of
    Adam's two copies one remains: its mean of gradients is the gradient, and is not kept.

    Args:
        optimizer: the base; its parameter groups and state are shared.
        momentum: weight of the average in the point where gradients are taken (β), in (0, 1).
        power: weight of a step in the average, as a power of its number (r). 2 is a mean of about
            the last half of the steps; 0, the package's, one of all steps.

    Attributes:
        base: the optimizer inside.

    Raises:
        ValueError: a setting is out of its range; the optimizer averages already, needs a closure,
            or has a momentum whose effect on its steps cannot be told.
    """

    def __init__(self, optimizer: Optimizer, *, momentum: float = 0.9, power: float = 2.0) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"momentum={momentum!r} must lie in (0, 1); 0.9 is usual")
        if not 0 <= power < float("inf"):
            raise ValueError(f"power={power!r} must be finite and not negative; 2 is usual")
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "the optimizer is LBFGS, which evaluates the loss several times in a step; use one "
                "whose step() needs no closure"
            )
        if averages_itself(optimizer):
            refuse_a_second_average(optimizer)
        self.base = optimizer
        for group in optimizer.param_groups:
            self._prepare(group, momentum, power, True)
        # No scheduler finds a momentum here that it could turn on again (OneCycleLR would).
        off = ("momentum", "betas")
        defaults = {name: at for name, at in optimizer.defaults.items() if name not in off}
        # What __init__ does beside it makes groups and a state of its own.
        super().__setstate__({"defaults": defaults})

    def _prepare(self, group: dict[str, Any], beta: float, power: float, train_mode: bool) -> None:
        group["lr_factor"] = turn_momentum_off(self.base, group)
        group["average_momentum"] = float(beta)
        group["average_power"] = float(power)
        group[STEPS] = 0
        group["lr_max"] = 0.0
        group["train_mode"] = train_mode

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's, with the average's settings and counts in them."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The base optimizer's, with ``z`` and ``weight_sum`` in it."""
        return self.base.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.base.state = state

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base, "defaults": self.defaults}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its average has the momentum and the power of the first one's."""
        first = self.param_groups[0]
        settings = first["average_momentum"], first["average_power"]
        self.base.add_param_group(param_group)
        self._prepare(self.param_groups[-1], *settings, first["train_mode"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that ``state_dict()`` returned.

        Raises:
            ValueError: it is that of an optimizer without averaging.
        """
        if any(STEPS not in group for group in state_dict["param_groups"]):
            raise ValueError(
                f"the state is that of {type(self.base).__name__} without averaging; load it into "
                "that optimizer before it is wrapped, to begin an average from there"
            )
        self.base.load_state_dict(state_dict)

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take a step.

        Args:
            closure: computes the gradients, and returns the loss.

        Returns:
            The closure's loss, if there is one.

        Raises:
            RuntimeError: the parameters hold the average, between ``eval()`` and ``train()``.
        """
        if not all(group["train_mode"] for group in self.param_groups):
            raise RuntimeError(
                "the parameters hold the average: call the optimizer's train() before step()"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            moving = [GroupStep(self.base, group) for group in self.param_groups]
            try:
                self.base.step()
            finally:
                for moved in moving:
                    moved.end()
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Let the parameters hold the average; call it before an evaluation."""
        for group, parameter, own in self._averaged_parameters(train_mode=True):
            own["y"] = parameter.detach().clone()
            parameter.lerp_(own["z"], 1 - 1 / group["average_momentum"])
        for group in self.param_groups:
            group["train_mode"] = False

    @torch.no_grad()
    def train(self) -> None:
        """Let the parameters hold what they held before :meth:`eval`, to the last bit."""
        for _, parameter, own in self._averaged_parameters(train_mode=False):
            parameter.copy_(own.pop("y"))
        for group in self.param_groups:
            group["train_mode"] = True

    def _averaged_parameters(
        self, *, train_mode: bool
    ) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                own = self.state.get(parameter, {})
                if group["train_mode"] == train_mode and "z" in own:
                    yield group, parameter, own

    @contextlib.contextmanager
    def averaged(
        self,
        model: nn.Module | None = None,
        batches: Iterable[Any] = (),
        forward: Callable[[Any], object] | None = None,
    ) -> Iterator[None]:
        """Let the parameters hold the average, and afterwards what they held, to the last bit.

        Args:
            model: if it is given, its BatchNorm statistics are taken anew at the average, as by
                :meth:`calibrate`, and put back at the end too.
            batches: see :meth:`calibrate`.
            forward: likewise.
        """
        modes = [group["train_mode"] for group in self.param_groups]
        self.eval()
        try:
            with contextlib.nullcontext() if model is None else kept_statistics(model):
                if model is not None:
                    self.calibrate(model, batches, forward)
                yield
        finally:
            if all(modes):
                self.train()

    def calibrate(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        forward: Callable[[Any], object] | None = None,
    ) -> None:
        """Set BatchNorm's running statistics to their mean over batches, at the average.

        Statistics belong to the weights that they were taken with; those of training are another
        point's. Twenty batches do. A model without running statistics reads none.

        Args:
            model: the model, bare: DDP's ``module``. With several workers, share its buffers.
            batches: training batches, where the model is.
            forward: passes a batch through the model. By default ``model(batch)``, with
                ``**batch`` for a dict and with the first element of a tuple or list.

        Raises:
            RuntimeError: the parameters do not hold the average.
        """
        if any(group["train_mode"] for group in self.param_groups):
            raise RuntimeError("call the optimizer's eval() before calibrate()")
        take_statistics(model, batches, forward)
