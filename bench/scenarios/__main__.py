"""Runs whose conditions change in mid-run: ours beside schedules planned beforehand.

    python -m bench.scenarios --run --task digits fashion --seed 0 1
    python -m bench.scenarios --table

Each run that ends is a line of results/scenarios.jsonl and is not made again; the tables come from
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.measurement import options
from bench.scenarios.changing_tasks import CHANGING_TASKS, CHOSEN_ON
from bench.scenarios.made import RUNS, make_runs, plan, read_runs
from bench.scenarios.ours import OURS
from bench.scenarios.planned import RIVALS, SCENARIOS
from bench.scenarios.scenario_table import tables

REPORTED = [name for name in CHANGING_TASKS if name not in CHOSEN_ON]


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--run", action="store_true", help="make the runs that the file lacks")
    parser.add_argument("--table", action="store_true", help="print the tables")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--task", nargs="+", choices=CHANGING_TASKS, default=REPORTED)
    parser.add_argument("--method", nargs="+", choices=[*RIVALS, *OURS])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=0, help="runs at a time; 0: in this one")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args(argv)
    if not (arguments.run or arguments.table):
        parser.error("nothing to do: give --run or --table")
    methods = arguments.method or [*RIVALS, *OURS]
    # A wrong first LR is that of the best run without a change, which comes first.
    scenarios = sorted(arguments.scenario, key=lambda name: SCENARIOS[name].lr_factor is not None)
    if arguments.run:
        for scenario in scenarios:
            runs = read_runs(arguments.runs)
            make_runs(
                plan([scenario], arguments.task, methods, arguments.seed, arguments.steps, runs),
                arguments.runs,
                processes=arguments.processes,
                say=partial(print, flush=True),
            )
    if arguments.table:
        runs = read_runs(arguments.runs)
        print(tables(runs, arguments.task, arguments.seed, arguments.steps))


if __name__ == "__main__":
    main()
