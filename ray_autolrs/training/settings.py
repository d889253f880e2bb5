"""What a user sets of the training itself. It imports without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ray_autolrs.algorithm.field_checks import check_bool, check_integer
from ray_autolrs.training.averaging.average import Averaging


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """When and on what the model is validated, and which weights are kept.

    Raises:
        ValueError: a field is out of its range.
    """

    every_steps: int | None = None
    """Applied steps between evaluations on the whole validation set, counted from the start of
    each stage. None evaluates at the end of each stage only."""

    keep_best: bool = True
    """Whether the trained model is that of the lowest validation loss among the run's evaluations,
    rather than the last one: where it overfits, the best lies before the end. The paper's is the
    last."""

    probe_samples: int | None = None
    """Size of the fixed validation subset that probes are judged on, in samples. None is 16
    global batches, at most 512, which costs about as much as five steps. The paper's preset takes
    1024; the excerpt says only that it is small."""

    def __post_init__(self) -> None:
        check_integer(self, "every_steps", minimum=1, optional=True)
        check_bool(self, "keep_best")
        check_integer(self, "probe_samples", minimum=1, optional=True)

    def resolve(self, global_batch_size: int) -> Validation:
        """Return the settings with the size of the subset filled in."""
        if self.probe_samples is not None:
            return self
        return replace(self, probe_samples=min(512, 16 * global_batch_size))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """What the training loop is told of a run, resolved.

    Attributes:
        seed: of the batches, the augmentation and the model's random numbers.
        averaging: average of the weights that the model is judged at.
        validation: when and on what it is validated.
        divergence_check_steps: steps between looks at the losses.
        follows_path: whether the search asks how straight the way of the weights is.
    """

    seed: int = 0
    averaging: Averaging | None = None
    validation: Validation = field(default=Validation(probe_samples=512))
    divergence_check_steps: int = 10
    follows_path: bool = False
