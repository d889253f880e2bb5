"""What a run would gain by another LR at the end of its warm-up, and what shows it by then.

    python -m bench.lr_forks --data FOLDER
    python -m bench.lr_forks --task mlp vit --start 0.25

About 35 minutes of one core. On each task of the suite the default's search finds a learning rate
(LR). A run warms up to it,
times ``--start``, and goes on from there to the end with half, the same and twice the LR, and
further where the first or the last of these is best. The branches begin from one snapshot and see
the same batches. Each task is a line of results/lr_forks.jsonl; ``python -m bench.raise_rule``
reads it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.measurement import RESULTS_FOLDER, options
from bench.processes import append_missing
from bench.tasks.suite import SUITE
from bench.tasks.text_data import TRANSLATION_FOLDER, take_parallel_folder
from ray_autolrs import Bracket
from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import Candidate, Observation, RunFacts, StageContext
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.snapshot import Snapshot

RUNS = RESULTS_FOLDER / "lr_forks.jsonl"
LOOKS = (25, 50, 75, 100, 150, 200, 300, 400, 600, 900, 1200, 1500)
"""Steps after the fork, beside the last."""

FURTHEST = 3
"""Octaves that a branch may go to each side."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=SUITE, default=list(SUITE))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=float, default=1.0, help="of the LR found")
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--data", type=Path, help=f"sets {TRANSLATION_FOLDER}")
    parser.add_argument("--processes", type=int, default=2, help="0: in this one")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args(argv)
    take_parallel_folder(arguments.data)
    made = {(run["task"], run["seed"], run["start"], run["steps"]) for run in read(arguments.runs)}
    jobs = [(task, arguments.seed, arguments.start, arguments.steps) for task in arguments.task]
    for run in append_missing(study, jobs, made, arguments.runs, arguments.processes):
        print(f"{run['task']}: {run['seconds']:.0f} s", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the runs that are there, of the suite's tasks as they are now."""
    if not path.exists():
        return []
    runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [run for run in runs if run["version"] == SUITE[run["task"]].version]


def study(job: tuple[str, int, float, int]) -> dict[str, Any]:
    """Search, warm up, and branch."""
    torch.set_num_threads(1)
    name, seed, start, steps = job
    started_s = time.perf_counter()
    run = Forked(name, seed)
    found, probes = run.search(steps)
    lr, fork = start * found, steps // 5
    trunk = run.follow(fork, lambda step: lr * min(1.0, (step + 1) / fork), (fork,))
    branches: dict[int, dict[str, Any]] = {}
    if trunk["finite"]:
        run.snapshot.capture(run.engine.replica, fork)
        follow = partial(run.follow, steps - fork, looks=(*LOOKS, steps - fork))

        def lowest(octaves: int) -> float:
            branches[octaves] = follow(lr_at=lambda step: lr * 2.0**octaves)
            return lowest_loss(branches[octaves])

        known = {octaves: lowest(octaves) for octaves in (-1, 0, 1)}
        while True:
            best = min(known, key=known.__getitem__)
            beyond = best + (1 if best == max(known) else -1)
            if beyond in known or abs(beyond) > FURTHEST:
                break
            known[beyond] = lowest(beyond)
    return {
        "task": name,
        "version": SUITE[name].version,
        "seed": seed,
        "start": start,
        "steps": steps,
        "found_lr": found,
        "initial": run.initial_loss,
        "probes": probes,
        "trunk": trunk,
        "branches": branches,
        "seconds": round(time.perf_counter() - started_s, 1),
    }


def lowest_loss(branch: dict[str, Any]) -> float:
    """Return a branch's lowest validation loss; infinite if it diverged."""
    losses = [loss for _, loss in branch["losses"]] if branch["finite"] else []
    return min(losses, default=math.inf)


class Forked:
    """A task's run, which goes on from a snapshot more than once."""

    def __init__(self, name: str, seed: int) -> None:
        task = SUITE[name].make()
        self.interval = SUITE[name].interval
        self.averaging = ScheduleFreeAverage().resolve(task.global_batch_size)
        self.engine = Engine(
            task,
            Solo(),
            torch.device("cpu"),
            seed=seed,
            averaging=self.averaging,
            follows_path=True,
        )
        self.validation = self.engine.evaluation(task.val_dataset())
        self.initial_loss = self.engine.evaluate(self.validation, 0)["loss"]
        self.snapshot = Snapshot()
        self.snapshot.capture(self.engine.replica, 0)

    def follow(
        self, count: int, lr_at: Callable[[int], float], looks: Sequence[int]
    ) -> dict[str, Any]:
        """Take steps from the snapshot, and return losses and directness at the looks."""
        first = self.snapshot.restore(self.engine.replica)
        path = self.engine.replica.path
        assert path is not None
        table = self.engine.loss_table(count)
        losses: list[tuple[int, float]] = []
        directness: list[tuple[int, float | None]] = []
        finite = True
        for done in self.engine.steps(first, count, lr_at, table):
            if done % 50 == 0 or done in looks:
                finite = bool(table[:done].isfinite().all())
            if finite and done in looks:
                losses.append((done, self.engine.evaluate(self.validation, first + done)["loss"]))
                directness.append((done, path.directness()))
                finite = math.isfinite(losses[-1][1])
            if not finite:
                break
        first_loss = float(table[0].mean())
        return {
            "finite": finite,
            "first_loss": first_loss,
            "losses": losses,
            "directness": directness,
        }

    def search(
        self, steps: int, probe_steps: int | None = None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return the LR that the default's search finds, and its probes.

        Args:
            steps: of the run.
            probe_steps: of a probe; None for the default's.
        """
        facts = RunFacts(
            total_steps=steps,
            lr=self.interval,
            is_averaged=True,
            interpolation=self.averaging.interpolation,
        )
        search = Bracket(probe_steps=probe_steps).resolve(facts)
        context = StageContext(Stage(1, 0, steps), facts)
        told: list[Observation] = []
        probes: list[dict[str, Any]] = []
        while (asked := search.suggest(context, told, ())) is not None:
            probe = self.follow(asked.steps, partial(_lr_of, asked), (asked.steps,))
            if not told:
                context = StageContext(context.stage, facts, initial_loss=probe["first_loss"])
            forecast = Forecast(probe["losses"][-1][1], math.nan) if probe["finite"] else None
            told.append(Observation(len(told), asked.peak_lr, forecast, asked.shape))
            probes.append({"lr": asked.peak_lr, **probe})
        choice = search.choose(context, told, ())
        assert choice is not None, "every LR diverged"
        return choice.peak_lr, probes


def _lr_of(candidate: Candidate, step: int) -> float:
    return candidate.peak_lr * candidate.shape.factor(step)


if __name__ == "__main__":
    main()
