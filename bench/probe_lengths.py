"""What longer probes before the first step are worth, on the bench's tasks.

    python -m bench.probe_lengths --data FOLDER
    python -m bench.probe_lengths --table

Each task is searched with probes of 50, 100 and 200 steps (``results/probe_lengths.jsonl``), about
40 minutes of one core. The table beside which octave is right, and what the learning rate (LR)
found costs, comes from ``python -m bench.lr_forks``: runs that went on with other LRs from 20% on.
An LR between two of theirs costs what lies between theirs.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.lr_forks import RUNS, Forked, lowest_loss, read
from bench.measurement import RESULTS_FOLDER, options
from bench.processes import append_missing
from bench.raise_rule import MOST_REGRET
from bench.tasks.suite import SUITE
from bench.tasks.text_data import TRANSLATION_FOLDER, take_parallel_folder

SEARCHES = RESULTS_FOLDER / "probe_lengths.jsonl"
PROBE_STEPS = (50, 100, 200)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=SUITE, default=list(SUITE))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--data", type=Path, help=f"sets {TRANSLATION_FOLDER}")
    parser.add_argument("--processes", type=int, default=2, help="0: in this one")
    parser.add_argument("--table", action="store_true", help="search nothing")
    parser.add_argument("--searches", type=Path, default=SEARCHES)
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args(argv)
    take_parallel_folder(arguments.data)
    if not arguments.table:
        made = {
            (one["task"], one["seed"], one["steps"], one["probe_steps"])
            for one in read(arguments.searches)
        }
        jobs = [
            (task, arguments.seed, arguments.steps, probe_steps)
            for task in arguments.task
            for probe_steps in PROBE_STEPS
        ]
        for found in append_missing(search, jobs, made, arguments.searches, arguments.processes):
            print(f"{found['task']}, {found['probe_steps']} steps: {found['lr']:.4g}", flush=True)
    print(table(read(arguments.searches), read(arguments.runs)))


def search(job: tuple[str, int, int, int]) -> dict[str, Any]:
    """Search a task, and return the LR that is found."""
    torch.set_num_threads(1)
    name, seed, steps, probe_steps = job
    lr, probes = Forked(name, seed).search(steps, probe_steps)
    return {
        "task": name,
        "version": SUITE[name].version,
        "seed": seed,
        "steps": steps,
        "probe_steps": probe_steps,
        "lr": lr,
        "probes": len(probes),
    }


def table(searches: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> str:
    """Return the table, over the tasks that have all lengths and forks of the same seed."""
    forks = {(run["task"], run["seed"]): run for run in runs if run["start"] == 1.0}
    by_task: defaultdict[tuple[str, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for one in searches:
        by_task[one["task"], one["seed"]][one["probe_steps"]] = one
    shared = [key for key, found in by_task.items() if len(found) == 3 and key in forks]
    lines = [
        f"{len(shared)} tasks",
        "",
        "| steps of a probe | octaves off, median | regret, mean | median | search / run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for steps in PROBE_STEPS:
        found = [(by_task[key][steps], forks[key]) for key in shared]
        if not found:
            continue
        judged = [judge(one["lr"], fork) for one, fork in found]
        cost = statistics.fmean(steps * one["probes"] / one["steps"] for one, _ in found)
        lines.append(
            f"| {steps} | {statistics.median(off for off, _ in judged):.2f} | "
            f"{statistics.fmean(regret for _, regret in judged):.1%} | "
            f"{statistics.median(regret for _, regret in judged):.1%} | {cost:.1%} |"
        )
    return "\n".join(lines)


def judge(lr: float, fork: dict[str, Any]) -> tuple[float, float]:
    """Return how many octaves an LR is off the best branch's, and what it costs beside it.

    The cost is relative, at most ``MOST_REGRET``; beyond the furthest branch it is that one's.
    """
    ends = {int(octaves): lowest_loss(branch) for octaves, branch in fork["branches"].items()}
    best = min(ends, key=ends.__getitem__)
    regrets = {place: min(MOST_REGRET, loss / ends[best] - 1) for place, loss in ends.items()}
    place = math.log2(lr / (fork["start"] * fork["found_lr"]))
    within = min(max(place, min(ends)), max(ends))
    below = min(math.floor(within), max(ends) - 1)
    part = within - below
    return abs(place - best), (1 - part) * regrets[below] + part * regrets[below + 1]


if __name__ == "__main__":
    main()
