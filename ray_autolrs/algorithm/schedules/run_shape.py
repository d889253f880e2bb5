"""The shape of a run's learning rate: what a stage's multiplier is multiplied with."""

from __future__ import annotations

from ray_autolrs.algorithm.schedules.decays import Cosine, Linear, Trapezoid
from ray_autolrs.algorithm.schedules.shapes import Constant, Shape
from ray_autolrs.config import AutoLRSConfig


def run_shape(config: AutoLRSConfig) -> Shape:
    """Return the shape that a run's stages share, over all of its steps.

    Where the warm-up is a segment of its own (``config.warmup_is_applied_first``) the shape
    begins after it, at 1.

    >>> run_shape(AutoLRSConfig.paper(total_steps=2000, lr_min=0.01, lr_max=1.0))
    Constant()
    """
    warmup = 0 if config.warmup_is_applied_first else config.resolved_warmup_steps
    first_step = config.resolved_warmup_steps if config.warmup_is_applied_first else 0
    power = config.resolved_warmup_power if warmup else 1.0
    if config.shape == "constant" or config.total_steps is None:
        # Without a known end a decay begins when the user asks for it.
        return Constant() if warmup == 0 else Trapezoid(0, None, warmup, 0, power)
    steps = config.total_steps - first_step
    match config.shape:
        case "wsd":
            decay = max(1, round(config.decay_fraction * steps))
            return Trapezoid(first_step, steps, warmup, decay, power)
        case "linear" if warmup == 0:
            return Linear(first_step, steps)
        case "linear":
            return Trapezoid(first_step, steps, warmup, steps - warmup, power)
        case "cosine":
            return Cosine(first_step, steps, warmup_steps=warmup, warmup_power=power)


def is_falling(shape: Shape) -> bool:
    """Return whether a shape ends in a decay, as the closing stage of a run without an end does."""
    return isinstance(shape, Trapezoid) and shape.decay_steps > 0
