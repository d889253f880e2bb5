"""When a run's state is stored: what a user sets of it. It imports without Ray and torch."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.field_checks import check_bool, check_integer, check_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """When the state of a run is stored, and how much of it stays in the run's folder.

    It is stored at the run's start, after the warm-up and after each stage. Within a stage and its
    search it is stored besides as these settings say, at the next look at the losses
    (``AutoLRSConfig.divergence_check_steps``). They may change when a run is continued: when it
    is stored does not change what is trained.

    Raises:
        ValueError: a field is out of its range.
    """

    every_s: float | None = None
    """Seconds between two checkpoints. None, and no ``every_steps`` either, takes Young's
    interval, √(2 · write time · mean time between failures), of the write times that are
    measured; it is logged."""

    every_steps: int | None = None
    """Optimizer steps between two checkpoints, those of probes included. With ``every_s``,
    whichever comes first."""

    failures_per_day: float = 1.0
    """How often the run's machines are expected to fail, for Young's interval. On 16,384 GPUs
    Llama 3's pre-training was interrupted 8.6 times a day ("The Llama 3 Herd of Models", 2024,
    section 3.3.4), which is once in five years a GPU; machines that may be taken away fail
    oftener."""

    keep: int | None = None
    """How many stay: the newest ones, and the stage's start that one within a stage goes back to.
    None is ``CheckpointConfig(num_to_keep=)`` where that is given, else 2: one to go back to,
    should the newest be damaged."""

    best: bool = False
    """Whether the one of the lowest validation loss stays too; an evaluation that is better than
    all before it is then stored."""

    def __post_init__(self) -> None:
        check_positive(self, "every_s", optional=True)
        check_integer(self, "every_steps", minimum=1, optional=True)
        check_positive(self, "failures_per_day")
        check_integer(self, "keep", minimum=1, optional=True)
        check_bool(self, "best")
