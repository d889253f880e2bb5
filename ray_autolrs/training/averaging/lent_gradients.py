"""Adam without momentum needs no memory for its mean of gradients.

With the first beta at 0 the mean is the gradient: each step overwrites it before it reads it. So it
is given the gradient's own memory for the time of a step, and kept by nobody in between.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Adam, Optimizer

FIRST_MOMENT = "exp_avg"
"""What Adam calls its mean of gradients."""


def lends_gradient(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Tell whether the mean of gradients is the gradient as it is.

    Where a step makes another one of it first, the gradient may not be written to.
    """
    is_off = isinstance(optimizer, Adam) and group["betas"][0] == 0
    changes = group.get("weight_decay", 0) != 0 and not group.get("decoupled_weight_decay", False)
    return is_off and not changes and not group.get("maximize", False)
