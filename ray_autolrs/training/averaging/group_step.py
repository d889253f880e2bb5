"""One step of Schedule-Free averaging, for one parameter group of the optimizer inside.

Symbols as in :mod:`ray_autolrs.training.averaging.points`.

Where nothing speaks against it, a step moves no weights about and takes few kernels: the parameters
hold the memory of z while the optimizer inside steps, in place of a copy, and torch's Adam takes
its fused kernel. It is not bit-equal to Adam's loop over parameters, which is what torch takes on
a CPU where nothing is chosen; who passes ``foreach`` or ``fused`` to Adam keeps what was chosen.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from ray_autolrs.training.averaging.average import STEPS
from ray_autolrs.training.averaging.lent_gradients import FIRST_MOMENT, lends_gradient
from ray_autolrs.training.averaging.lr_factors import bias_factor
from ray_autolrs.training.averaging.points import (
    exchange_memory,
    give_back_memory,
    leave_points,
    return_to_points,
)

FUSED_DEVICES = frozenset(("cpu", "cuda"))
PLAIN = (Tensor, nn.Parameter)


class GroupStep:
    """Parameters of a group that got a gradient, while the optimizer inside moves them.

    From its making to :meth:`end` the parameters hold z, and the group's ``lr`` is the one that
    the optimizer inside is to step with.

    Args:
        base: the optimizer inside.
        group: one of its parameter groups.
    """

    def __init__(self, base: Optimizer, group: dict[str, Any]) -> None:
        self._base, self._group = base, group
        self._parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        self._kept: list[Tensor] = []
        self._weight_sums: list[float] = []
        self._lends = lends_gradient(base, group)
        for parameter in self._parameters:
            own = base.state.get(parameter)
            if own is None or "z" not in own:
                self._kept.append(parameter.detach().clone())
                # The smallest number, because the LR may be 0.
                self._weight_sums.append(sys.float_info.min)
            else:
                # Taken out: Adam and others build a parameter's state where they find it empty.
                self._kept.append(own.pop("z"))
                self._weight_sums.append(own.pop("weight_sum"))
            if self._lends and own:
                own[FIRST_MOMENT] = parameter.grad
        beta = group["average_momentum"]
        is_plain = all(type(parameter) in PLAIN for parameter in self._parameters)
        self._averages: list[Tensor] | None = None
        if is_plain and takes_any_memory(base):
            self._averages = exchange_memory(self._parameters, self._kept, beta)
        else:
            leave_points(self._parameters, self._kept, beta)
        self._is_fused = is_plain and may_be_fused(base, group, self._parameters)
        if self._is_fused:
            group["fused"] = True
        self._lr = group["lr"]
        factor = group["lr_factor"] * bias_factor(base, group, group[STEPS])
        if isinstance(self._lr, Tensor):
            self._lr = self._lr.clone()
            group["lr"].mul_(factor)
        else:
            group["lr"] = self._lr * factor

    def end(self) -> None:
        """Take the parameters in, and let them hold y again."""
        group = self._group
        # Prodigy and its kind find d, a factor of the LR.
        group["lr_max"] = max(float(group["lr"]) * float(group.get("d", 1.0)), group["lr_max"])
        weight = (group[STEPS] + 1) ** group["average_power"] * group["lr_max"] ** 2
        group[STEPS] += 1
        if isinstance(self._lr, Tensor):
            group["lr"].copy_(self._lr)
        else:
            group["lr"] = self._lr
        if self._is_fused:
            group["fused"] = None
        # Those that missed steps have another sum, and so another weight of the newest point.
        sharing: defaultdict[float, list[int]] = defaultdict(list)
        for place, (parameter, kept) in enumerate(zip(self._parameters, self._kept, strict=True)):
            own = self._base.state[parameter]
            if self._lends:
                own.pop(FIRST_MOMENT, None)
            own["z"] = kept
            own["weight_sum"] = weight_sum = self._weight_sums[place] + weight
            sharing[weight / weight_sum].append(place)
        for newest_weight, places in sharing.items():
            self._return(places, newest_weight)

    def _return(self, places: list[int], newest_weight: float) -> None:
        parameters = [self._parameters[place] for place in places]
        kept = [self._kept[place] for place in places]
        beta = self._group["average_momentum"]
        if self._averages is None:
            return_to_points(parameters, kept, beta, newest_weight)
        else:
            averages = [self._averages[place] for place in places]
            give_back_memory(parameters, kept, averages, beta, newest_weight)


def takes_any_memory(base: Optimizer) -> bool:
    """Tell whether an optimizer finds the parameters' memory in each step; others may keep it."""
    return type(base).__module__.startswith("torch.optim.")


def may_be_fused(base: Optimizer, group: dict[str, Any], parameters: list[Tensor]) -> bool:
    """Tell whether Adam's fused kernel can take a step, and nobody has chosen another.

    Args:
        base: the optimizer inside.
        group: one of its parameter groups.
        parameters: those of it that got a gradient, none of them a subclass of a tensor's.
    """
    if type(base) not in (Adam, AdamW):
        return False
    if group["foreach"] is not None or group["fused"] is not None:
        return False
    if group["capturable"] or group["differentiable"]:
        return False
    devices = {parameter.device.type for parameter in parameters}
    if not devices <= FUSED_DEVICES:
        return False
    if not all(parameter.is_floating_point() for parameter in parameters):
        return False
    if "cuda" not in devices:
        return True
    # On a GPU the kernel counts steps there, and an older state may count them on the CPU.
    counts = (base.state.get(parameter, {}).get("step") for parameter in parameters)
    return all(count is None or count.is_cuda for count in counts)
