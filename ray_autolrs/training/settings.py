"""What training is told of a run's settings. It imports without torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ray_autolrs.algorithm.field_checks import check_bool, check_integer
from ray_autolrs.training.averaging.average import Averaging


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When and on what losses are validated.

    Raises:
        ValueError: a field is out of its range.
    """

    every_steps: int | None = None
    """Applied steps between evaluations on the whole validation set, counted from the start of
    each stage. None evaluates at the end of each stage only."""

    keep_best: bool = True
    """Whether the trained model is that of the lowest validation loss among the run's
    evaluations, rather than the last one: where it overfits, the best lies before the end. The
    paper's is the last."""

    probe_samples: int | None = None
    """Size of the fixed validation subset that probes are judged on, in samples. None is 16
    global batches, at most 512, which costs about as much as five steps. The paper's preset takes
    1024; the excerpt says only that it is small."""

    def __post_init__(self) -> None:
        check_integer(self, "every_steps", minimum=1, optional=True)
        check_bool(self, "keep_best")
        check_integer(self, "probe_samples", minimum=1, optional=True)

    def resolve(self, global_batch_size: int) -> Validation:
        """Return the value with ``probe_samples`` filled in.

        >>> Validation().resolve(global_batch_size=8).probe_samples
        128
        """
        if self.probe_samples is not None:
            return self
        return dataclasses.replace(self, probe_samples=min(512, 16 * global_batch_size))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a worker is told of a run's settings, resolved.

    Attributes:
        seed: of the model, the batches and the evaluations.
        averaging: the average that validation looks at; None looks at the weights themselves.
        validation: when and on what losses are validated.
        divergence_check_steps: steps between looks at the losses.
    """

    seed: int = 0
    averaging: Averaging | None = None
    validation: Validation = Validation()
    divergence_check_steps: int = 10
