"""The stage machine's search, carried out on a live loop."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import sys
from typing import Any

import torch
from tqdm import tqdm

from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.algorithm.schedules.segments import group_lrs
from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.strategy import RunFacts, SearchStrategy
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.training.averaging.average import Averaging, WeightAverage
from ray_autolrs.training.averaging.no_average import NoAverage
from ray_autolrs.training.averaging.self_averaged import SelfAveraged
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.found_lr import FoundLR, SearchCosts, TriedLR
from ray_autolrs.training.live_loop import LiveLoop
from ray_autolrs.training.lr_sweep import sweep_for_interval
from ray_autolrs.training.ready_batches import NoValidation, Tape
from ray_autolrs.training.settings import TrainingSettings, Validation
from ray_autolrs.training.worker import Worker

logger = logging.getLogger(__name__)

JUDGED_FRACTION = 0.3
"""Last part of a probe's steps whose mean training loss judges it where there is no validation.
Ours: in our prototypes it ranked LRs nearly as well, on the same batches."""


class LiveSearch:
    """The search of one stage that begins at the state that a loop is in.

    Args:
        loop: the live objects.
        group: the processes.
        device: where the model lives.
        search: the strategy.
        averaging: resolved, or None.
        stages: see :func:`~ray_autolrs.training.find_lr.find_lr`.
        total_steps: likewise.
        lr: likewise; None is the guess, or an interval for a strategy that needs one.
        guess: the present LR; 0 for none.
        seed: likewise.

    Raises:
        ValueError: the loss is refused, or a setting of the search.
    """

    def __init__(
        self,
        loop: LiveLoop,
        group: Group,
        device: torch.device,
        *,
        search: SearchStrategy,
        averaging: Averaging | None,
        stages: Stages,
        total_steps: int | None,
        lr: float | tuple[float, float] | None,
        guess: float,
        seed: int,
    ) -> None:
        self._loop = loop
        self._averaging = averaging
        self._is_validated = not isinstance(loop.validation, NoValidation)
        settings = TrainingSettings(
            seed=seed, averaging=averaging, validation=Validation(keep_best=False, probe_samples=1)
        )
        self._worker = Worker(loop, settings, group, device)
        self._worker.take_snapshot(0)
        if self._is_validated:
            self._worker.check_first_loss()
        self._spent_steps = 0
        if lr is None and search.accepts_guess and guess > 0:
            lr = guess
        elif lr is None:
            swept = sweep_for_interval(self._worker.engine, self._worker.snapshot)
            lr, self._spent_steps = (swept.lr_min, swept.lr_max), swept.spent_steps
        if not (isinstance(lr, tuple) or search.accepts_guess):
            raise ValueError(
                f"lr={lr!r} is a guess, and {type(search).__name__} searches an interval: give "
                "(low, high)"
            )
        facts = RunFacts(
            total_steps=total_steps,
            lr=lr,
            seed=seed,
            is_averaged=not isinstance(self._worker.replica.average, NoAverage),
            interpolation=_interpolation(averaging, self._worker.replica.average),
        )
        stages = stages.resolve(total_steps)
        self._plan = RunPlan(facts=facts, stages=stages, search=search.resolve(facts))
        first = self._plan.stage_after(None)
        assert first is not None
        self._plan.search.check_stage(first)
        self._planned_steps = self._plan.search.planned_steps(facts, (first,))
        self._probes: list[ProbeDone] = []

    def announce(self, tape: Tape, val_tape: Tape) -> None:
        """Log what the search is going to cost, before it starts."""
        if self._worker.group.rank > 0:
            return
        facts, probe = self._plan.facts, self._first_probe()
        each = tape.size_bytes() / max(1, len(tape))
        batches = probe.steps * self._loop.batches.per_step
        part = f" ({self._planned_steps / facts.total_steps:.1%})" if facts.total_steps else ""
        kept = each * batches + (val_tape.size_bytes() if val_tape is not tape else 0)
        logger.info(
            "find_lr for %s steps: about %d probe steps%s; each process keeps %d training batches "
            "in host memory, %.3g MB with those for validation (%d samples)",
            facts.total_steps or "open-ended",
            self._planned_steps,
            part,
            batches,
            kept / 1e6,
            sum(self._loop.validation.sizes),
        )

    def run(self) -> Applying:
        """Make the probes, and return what the machine would apply.

        Raises:
            SearchFailedError: every LR diverged.
        """
        state, _ = advance(self._plan, RunState(), Ready(0))
        on_terminal = sys.stderr.isatty() and self._worker.group.rank == 0
        with tqdm(total=self._planned_steps or None, unit="step", disable=not on_terminal) as bar:
            while isinstance(state.phase, Probing):
                probe = outstanding(state)[0]
                assert isinstance(probe, Probe)
                done = self._run_probe(probe, bar)
                self._probes.append(done)
                state, _ = advance(self._plan, state, done)
        assert isinstance(state.phase, Applying), state.phase
        return state.phase

    def found(self, phase: Applying, tape: Tape, *, wall_s: float) -> FoundLR:
        """Return what was found, and the tape's batches."""
        found = FoundLR(
            lr=phase.segment.peak_lr,
            group_lrs=tuple(group_lrs(phase.segment.peak_lr, self._loop.parts.lrs)),
            probes=tuple(map(TriedLR.of, phase.results, self._probes)),
            costs=SearchCosts(
                probe_steps=self._spent_steps + sum(done.steps for done in self._probes),
                forward_steps=sum(done.forward_steps for done in self._probes),
                wall_s=wall_s,
                batches=len(tape),
                kept_bytes=tape.size_bytes(),
            ),
            averaging=self._averaging,
            batches_read=tape.handed_back(),
            batches=tape.and_rest(),
        )
        if self._worker.group.rank == 0:
            logger.info(
                "find_lr: LR %.4g after %d probes, %d steps, %.1f s",
                found.lr,
                len(found.probes),
                found.costs.probe_steps,
                wall_s,
            )
        return found

    def _first_probe(self) -> Probe:
        state, _ = advance(self._plan, RunState(), Ready(0))
        probe = outstanding(state)[0]
        assert isinstance(probe, Probe)
        return probe

    def _run_probe(self, probe: Probe, bar: tqdm[Any]) -> ProbeDone:
        before = sum(done.steps for done in self._probes)

        def progress(done: int, loss: float) -> None:
            bar.set_postfix_str(f"LR {probe.segment.peak_lr:.3g} loss {loss:.4g}", refresh=False)
            bar.update(before + done - bar.n)

        # The end of a probe is not gone on from: the loop's own steps follow.
        evals = probe.evals if self._is_validated else 0
        done = self._worker.run_probe(
            dataclasses.replace(probe, evals=evals, may_go_on=False), progress
        )
        if probe.evals and not self._is_validated and not done.diverged:
            judged = done.training_losses[-max(1, round(JUDGED_FRACTION * done.steps)) :]
            done = dataclasses.replace(done, validation_losses=(statistics.fmean(judged),))
        return done


def _interpolation(averaging: Averaging | None, average: WeightAverage) -> Interpolation | None:
    """Return what is known of the average, which may be the optimizer's own."""
    if averaging is not None:
        return averaging.interpolation
    return average.interpolation if isinstance(average, SelfAveraged) else None
