"""The settings of a run as options: a method's values, parts by name, then each number by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ray_autolrs.commands.named import load_part
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.settings_tree import parse_setting

Method = Literal["default", "paper"]

_ANY_STEPS = 1000
"""Steps of the settings that the help shows where the user has given none."""

_ANY_INTERVAL = (1e-3, 1.0)
"""The same of the paper's interval."""


@dataclass(frozen=True)
class Preset:
    """What the defaults of all other settings follow from."""

    method: Method = "default"
    """Search once before the first step, or every stage as the paper does."""

    set: tuple[str, ...] = ()
    """Settings as PATH=VALUE, of which the options below follow: parts by the name of their class,
    such as search=GaussianProcess shape=WSD shape.decay_fraction=0.2 averaging=null, or of one's
    own as search=my_module:MySearch."""

    def config(
        self, total_steps: int | None, lr: float | tuple[float, float] | None
    ) -> AutoLRSConfig:
        """Return the settings.

        Raises:
            ValueError: a part is refused, or the parts contradict each other.
        """
        settings = [(path, load_part(value)) for path, value in map(parse_setting, self.set)]
        if self.method == "default":
            return AutoLRSConfig(total_steps=total_steps, lr=lr).replaced(*settings)
        if total_steps is None:
            raise ValueError("--method paper needs an end: give --total-steps")
        interval = _ANY_INTERVAL if lr is None else lr
        if not isinstance(interval, tuple):
            raise ValueError(f"--method paper searches an interval: --lr LOW HIGH, not {lr:g}")
        return AutoLRSConfig.paper(total_steps, interval).replaced(*settings)


@dataclass(frozen=True)
class _First:
    """What is read before the other options are known."""

    preset: Annotated[Preset, tyro.conf.arg(name="")] = field(default=Preset())
    total_steps: int | None = _ANY_STEPS
    lr: float | tuple[float, float] | None = None


def defaults_for(arguments: Sequence[str]) -> AutoLRSConfig:
    """Return the settings that the options in ``arguments`` change, by method and parts.

    What has to be given is marked: ``total_steps``, and the paper's ``lr``.

    Raises:
        ValueError: see :meth:`Preset.config`.
        SystemExit: an option cannot be read; the reason was written.
    """
    shown = [word for word in arguments if word not in ("-h", "--help")]
    first, _ = tyro.cli(_First, args=shown, return_unknown_args=True, add_help=False)
    is_paper = first.preset.method == "paper"
    config = first.preset.config(first.total_steps, first.lr)
    required = ("total_steps", "lr") if is_paper else ("total_steps",)
    for name in required:
        # What the user gives is checked when tyro builds the settings from it.
        object.__setattr__(config, name, tyro.MISSING)
    return config
