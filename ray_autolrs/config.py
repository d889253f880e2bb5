"""The settings of a run: the parts' own, composed, and resolved once before a run starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ray_autolrs.algorithm.field_checks import check, check_integer, is_number, make_plain
from ray_autolrs.algorithm.schedules.run_shapes import Constant, RunShape
from ray_autolrs.algorithm.schedules.segments import SHAPES
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages
from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.strategy import RunFacts, SearchStrategy
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.checkpoint_settings import Checkpoints
from ray_autolrs.config_presets import paper_parts, staged_parts
from ray_autolrs.lanes import Lanes
from ray_autolrs.settings_tree import (
    Setting,
    StoredSettings,
    differences,
    filled_from,
    from_stored,
    replaced,
    to_stored,
)
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.settings import TrainingSettings, Validation

FREE_PARTS = ("lanes.", "checkpoints.")
"""Settings that may change when a run is continued: the schedule does not depend on them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoLRSConfig:
    """How AutoLRS cuts a run into stages, searches each one and judges its probes.

    The default searches once, before the first step, until the best learning rate (LR) is
    bracketed, and trains at a constant LR with Schedule-Free averaging; :meth:`paper` is the
    paper's method. Steps are optimizer steps, losses the task's mean loss, and LRs those of the
    optimizer's first parameter group; the other groups keep their ratio to it.

    Each part is a value with settings of its own. One's own search, forecaster, average or shape
    is passed in the same way (docs/extending.md).

    Raises:
        ValueError: a field is out of its range, or two parts contradict each other.
    """

    total_steps: int | None
    """Optimizer steps of the trained model, warm-up included. Probe steps come on top. None
    trains until ``AutoLRSTrainer.finish()``."""

    lr: float | tuple[float, float] | None = None
    """The interval to search, (η_min, η_max); or a guess to search around, which may be off by a
    factor of 300; None finds an interval by an LR range test."""

    seed: int = 0
    """Seeds the search, the batches, the augmentation and the model's random numbers."""

    search: SearchStrategy = field(default=Bracket())
    """Which LRs are tried, and which one is applied: :class:`Bracket`, or the paper's
    ``GaussianProcess``."""

    averaging: Averaging | None = field(default=ScheduleFreeAverage())
    """Average of the weights that probes, validation and the model are judged at:
    :class:`ScheduleFreeAverage` or ``EMA``. None, as in the paper, has none."""

    stages: Stages = field(default=Stages())
    """How the run is cut. Its state is stored after each stage, and as ``checkpoints`` says."""

    warmup: Warmup = field(default=Warmup())
    """How the LR rises in the first steps."""

    shape: RunShape = field(default=Constant())
    """What every stage's LR is multiplied with over the run: :class:`Constant`, as in the paper,
    or ``WSD``, ``Linear`` or ``Cosine``, which fall to zero."""

    validation: Validation = field(default=Validation())
    """When and on what the model is validated, and which weights are kept."""

    lanes: Lanes = field(default=Lanes())
    """Who runs the probes of a stage, and on what resources."""

    checkpoints: Checkpoints = field(default=Checkpoints())
    """When the run's state is stored within a stage, and how much of it stays."""

    divergence_check_steps: int = 10
    """Steps between looks at the losses of a probe: a diverged one ends at the next look.
    Each look waits for the device and averages the losses over the workers."""

    def __post_init__(self) -> None:
        check_integer(self, "total_steps", minimum=1, optional=True)
        check_integer(self, "seed", minimum=0)
        check_integer(self, "divergence_check_steps", minimum=1)
        self._check_lr()
        kinds = {"search": SearchStrategy, "stages": Stages, "warmup": Warmup}
        kinds |= {"validation": Validation, "lanes": Lanes, "checkpoints": Checkpoints}
        for name, kind in kinds.items():
            holds = isinstance(getattr(self, name), kind)
            check(self, name, holds, f"must be an instance of {kind.__name__}")
        holds = self.averaging is None or isinstance(self.averaging, Averaging)
        check(self, "averaging", holds, "must be None or an instance of Averaging")
        holds = callable(getattr(self.shape, "over", None))
        check(self, "shape", holds, "must be a shape such as Constant() or WSD()")
        self._resolved_parts(global_batch_size=1)  # Whatever the batch, the parts must agree.

    @classmethod
    def paper(cls, total_steps: int, lr: tuple[float, float], **parts: Any) -> AutoLRSConfig:
        """Return the paper's method with the paper's numbers, whatever the defaults become.

        Args:
            total_steps: applied optimizer steps, warm-up included.
            lr: the interval to search.
            **parts: any other field instead, such as ``stages=Stages(first_steps=100,
                longest_steps=400)`` for a short run.

        Raises:
            ValueError: as the constructor.
            TypeError: a part is not a field.
        """
        return cls(total_steps=total_steps, lr=lr, **(paper_parts() | parts))

    @classmethod
    def staged(
        cls,
        total_steps: int | None,
        lr: float | tuple[float, float] | None = None,
        **parts: Any,
    ) -> AutoLRSConfig:
        """Return the default in ten stages, with looks for another LR: see docs/staged.md.

        Arguments as of :meth:`paper`, and ``lr`` as of the constructor.

        Raises:
            ValueError: as the constructor.
            TypeError: a part is not a field.
        """
        return cls(total_steps=total_steps, lr=lr, **(staged_parts(total_steps) | parts))

    def resolve(self, *, global_batch_size: int) -> AutoLRSConfig:
        """Return the settings with every number filled in that depends on others.

        Args:
            global_batch_size: samples in an optimizer step of the task.

        Raises:
            ValueError: ``lr`` is None: the range test comes first.
        """
        check(self, "lr", self.lr is not None, "must be known: run the LR range test first")
        return dataclasses.replace(self, **self._resolved_parts(global_batch_size))

    def continued(self, stored: Any, *, global_batch_size: int) -> AutoLRSConfig:
        """Return the settings of a run that goes on, resolved, from those it began with.

        What these settings leave open is taken from the run, whatever the defaults have become.

        Args:
            stored: JSON values that :meth:`to_json` returned when the run began.
            global_batch_size: as for :meth:`resolve`.

        Raises:
            ValueError: the settings are not the run's, ``FREE_PARTS`` apart; the message names the
                first that differs. Or ``stored`` is of another format.
        """
        run = from_stored(stored)
        resolved = filled_from(self.resolve(global_batch_size=global_batch_size), self, run)
        differing = differences(to_stored(resolved), run, apart_from=FREE_PARTS)
        if differing:
            first = differing[0]
            raise ValueError(
                f"the run was started with {first.path}={first.stored!r}, not {first.given!r}; use "
                "the same config to continue it, or another name"
            )
        return resolved

    def replaced(self, *settings: Setting) -> AutoLRSConfig:
        """Return the config with settings put in by path, such as ``("search.probe_steps", 50)``.

        Raises:
            ValueError: there is no such path, or a value is refused.
        """
        return replaced(self, *settings)

    def to_json(self) -> StoredSettings:
        """Return the settings as JSON values, with their types, a format and a version."""
        return to_stored(self)

    def plan(self, parallel_probes: int = 1) -> RunPlan:
        """Return what the stage machine is told; of a resolved config.

        Args:
            parallel_probes: see :attr:`RunPlan.parallel_probes`.
        """
        assert self.lr is not None, "resolve the config first"
        warmup, averaging = self.warmup, self.averaging
        return RunPlan(
            facts=self._facts(self.lr, warmup, averaging),
            stages=self.stages,
            search=self.search,
            warmup=warmup.segment,
            closing_fraction=self.shape.decay_fraction if self.total_steps is None else 0.0,
            parallel_probes=parallel_probes,
        )

    def training_settings(self) -> TrainingSettings:
        """Return what the training loop is told; of a resolved config."""
        return TrainingSettings(
            seed=self.seed,
            averaging=self.averaging,
            validation=self.validation,
            divergence_check_steps=self.divergence_check_steps,
            follows_path=self.search.reads_directness,
        )

    def _resolved_parts(self, global_batch_size: int) -> dict[str, Any]:
        """Return the parts that have something to fill in, filled in and checked together."""
        averaging = self.averaging and self.averaging.resolve(global_batch_size)
        warmup = self.warmup.resolve(self.total_steps, is_averaged=averaging is not None)
        stages = self.stages.resolve(self.total_steps)
        self._check_steps(stages, warmup)
        # While the interval is to be found, any will do to check the rest.
        facts = self._facts(self.lr or (1e-3, 1.0), warmup, averaging)
        search = self.search.resolve(facts)
        search.check_stage(Stage(1, 0, stages.planned_steps(1)))
        return {
            "averaging": averaging,
            "warmup": warmup,
            "stages": stages,
            "search": search,
            "validation": self.validation.resolve(global_batch_size),
        }

    def _facts(
        self, lr: float | tuple[float, float], warmup: Warmup, averaging: Averaging | None
    ) -> RunFacts:
        assert warmup.steps is not None, warmup
        assert warmup.power is not None, warmup
        first = warmup.steps_before_search
        shape = self.shape.over(
            first,
            None if self.total_steps is None else self.total_steps - first,
            warmup_steps=warmup.steps - first,
            warmup_power=warmup.power if warmup.steps > first else 1.0,
        )
        rule = f"gives {shape!r}, which no saved schedule can hold: give one of {', '.join(SHAPES)}"
        check(self, "shape", type(shape) in SHAPES.values(), rule)
        return RunFacts(
            total_steps=self.total_steps,
            lr=lr,
            seed=self.seed,
            shape=shape,
            first_step=first,
            is_averaged=averaging is not None,
            interpolation=averaging.interpolation if averaging is not None else None,
        )

    def _check_lr(self) -> None:
        lr = make_plain(self, "lr")
        if isinstance(lr, tuple):
            holds = len(lr) == 2 and all(is_number(end) and end > 0 for end in lr)
            check(self, "lr", holds and lr[0] < lr[1], "must be (low, high) with 0 < low < high")
            return
        holds = lr is None or (is_number(lr) and lr > 0)
        check(self, "lr", holds, "must be an interval (low, high), a positive guess, or None")
        accepts = lr is None or self.search.accepts_guess
        rule = (
            f"is a guess, and {type(self.search).__name__} searches an interval: give (low, high)"
        )
        check(self, "lr", accepts, rule)

    def _check_steps(self, stages: Stages, warmup: Warmup) -> None:
        assert warmup.steps is not None, warmup
        total = self.total_steps
        if total is None:
            rule = "needs an end, and total_steps is None; use Constant() or WSD()"
            check(self, "shape", not self.shape.needs_end, rule)
            return
        first, before = stages.planned_steps(1), warmup.steps_before_search
        check(
            self,
            "total_steps",
            total >= before + first,
            f"must hold the warm-up's {before} steps and one stage of {first}; train longer or "
            "shorten the stage",
        )
        shape = type(self.shape).__name__
        decays = self.shape.decay_fraction if not self.shape.needs_end else 0.0
        check(
            self,
            "warmup",
            warmup.steps < total * (1 - decays),
            f"has {warmup.steps} steps: it must end before the decay of {shape} begins, and before "
            f"the run of {total} steps does",
        )
