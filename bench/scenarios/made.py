"""The scenarios' runs: which to make, making them, and where they lie."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.measurement import RESULTS_FOLDER, commit
from bench.processes import in_processes
from bench.scenarios.changing_tasks import CHANGING_TASKS
from bench.scenarios.ours import OURS, train_ours, version_of
from bench.scenarios.planned import RIVALS, RIVALS_VERSION, SCENARIOS, train_rival
from ray_autolrs.comparison.record import RunRecord

RUNS = RESULTS_FOLDER / "scenarios.jsonl"


class Key(NamedTuple):
    """What tells a run from others; a run with the same key is not made again."""

    scenario: str
    task: str
    method: str
    version: str
    lr: float | None
    seed: int
    steps: int


@dataclass(frozen=True, slots=True)
class ScenarioRun:
    """A run that was made.

    Attributes:
        key: what tells it from others.
        record: its losses and costs.
    """

    key: Key
    record: RunRecord

    @property
    def score(self) -> float:
        """Lowest validation loss after the change; infinite if the run diverged."""
        if self.record.diverged:
            return math.inf
        after = SCENARIOS[self.key.scenario].scored_after(self.key.steps)
        return min(loss for step, loss in self.record.curve if step > after)

    @property
    def before(self) -> float:
        """Lowest validation loss before the change; infinite if the run diverged by then."""
        after = SCENARIOS[self.key.scenario].scored_after(self.key.steps) or self.key.steps
        return min((loss for step, loss in self.record.curve if step <= after), default=math.inf)


Runs = dict[Key, ScenarioRun]


def key_of(scenario: str, task: str, method: str, lr: float | None, seed: int, steps: int) -> Key:
    """Return a run's key, with the version of its method."""
    text = version_of(method) if method in OURS else str(RIVALS_VERSION)
    version = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Key(scenario, task, method, version, lr, seed, steps)


def plan(
    scenarios: Iterable[str],
    tasks: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    steps: int,
    runs: Mapping[Key, ScenarioRun],
) -> list[Key]:
    """Return the keys of the runs to make.

    A rival has the learning rates (LRs) of the task, or in a scenario with a wrong first LR
    its best one without a change, times the factor; without that run it is left out.
    """
    keys: list[Key] = []
    for scenario, task, method, seed in itertools.product(scenarios, tasks, methods, seeds):
        factor = SCENARIOS[scenario].lr_factor
        lrs: tuple[float | None, ...] = CHANGING_TASKS[task]("none", 0).lrs
        if method in OURS:
            lrs = (None,)
        elif factor is not None:
            undisturbed = [
                runs[key]
                for key in plan(["no change"], [task], [method], [seed], steps, runs)
                if key in runs
            ]
            best = min(undisturbed, key=lambda run: run.score, default=None)
            lrs = () if best is None else (factor * best.key.lr,)  # type: ignore[operator]
        keys += [key_of(scenario, task, method, lr, seed, steps) for lr in lrs]
    return keys


def read_runs(path: Path) -> Runs:
    """Return the runs in a file, the newest of each key; none if there is no file."""
    runs: Runs = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            key = Key(**{name: values[name] for name in Key._fields})
            runs[key] = ScenarioRun(key, RunRecord.from_dict(values))
    return runs


def make_runs(
    keys: Iterable[Key], path: Path, *, processes: int, say: Callable[[str], None]
) -> Runs:
    """Make the runs that a file lacks, append each as it ends, and return all."""
    runs = read_runs(path)
    missing = [key for key in keys if key not in runs]
    say(f"{len(missing)} runs to make")
    path.parent.mkdir(parents=True, exist_ok=True)
    made_at = commit()
    for key, record, cpu_s in in_processes(_make, missing, processes):
        runs[key] = ScenarioRun(key, record)
        line: dict[str, Any] = {**record.to_dict(), **key._asdict()}
        line |= {"cpu_s": round(cpu_s, 2), "commit": made_at}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        lr = "" if key.lr is None else f" at {key.lr:g}"
        say(
            f"{key.scenario}, {key.task}, {key.method}{lr}, seed {key.seed}: "
            f"{runs[key].score:.4f}, {record.search_steps:.0f} search steps, {cpu_s:.1f} s"
        )
    return runs


def _make(key: Key) -> tuple[Key, RunRecord, float]:
    torch.set_num_threads(1)
    started_s = time.process_time()
    scenario = SCENARIOS[key.scenario]
    if key.method in OURS:
        record = train_ours(key.method, scenario, key.task, steps=key.steps, seed=key.seed)
    else:
        assert key.method in RIVALS, key
        assert key.lr is not None, key
        record = train_rival(
            key.method, scenario, key.task, lr=key.lr, steps=key.steps, seed=key.seed
        )
    return key, record, time.process_time() - started_s
