"""A bench that cannot be overfitted: many small tasks in groups, every choice judged on another.

    python -m bench.leave_one_out --run --method autolrs cosine wsd --seed 0 1 --data FOLDER
    python -m bench.leave_one_out --run --method autolrs --dry-run
    python -m bench.leave_one_out --table

Each run that ends is a line of results/leave_one_out.jsonl and is not made again while the task's
version and the method's stay; a pass can be stopped and goes on where it was. With --tune-on-seed N
the grids are run on that seed alone, and on the others the learning rate that was best there.
With --walk a grid is walked from its middle until the best learning rate is bracketed, a third
fewer runs; the table of rivals at equal cost needs whole grids.
Arms that need the LR oracle's runs (lr_oracle_beta_...) are run after those. Translation and German
need a folder of text: see TRANSLATION_FOLDER in tasks/text_data.py, or --data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.leave_one_out.grid_walk import next_runs
from bench.leave_one_out.page import page
from bench.leave_one_out.registry import DEFAULT, METHODS
from bench.leave_one_out.runs import (
    at_best_lr,
    make_runs,
    near_oracle,
    plan,
)
from bench.leave_one_out.store import CACHE, read_cache
from bench.measurement import options
from bench.tasks.suite import GROUPS, SUITE
from bench.tasks.text_data import TRANSLATION_FOLDER, take_parallel_folder

PAGE = Path(__file__).parents[1] / "leave_one_out.md"


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--run", action="store_true", help="make the runs that the cache lacks")
    parser.add_argument("--table", action="store_true", help="write the page, make no runs")
    parser.add_argument("--dry-run", action="store_true", help="tell runs and minutes only")
    parser.add_argument("--task", nargs="+", choices=SUITE, default=list(SUITE))
    parser.add_argument("--group", nargs="+", choices=GROUPS, help="only tasks of these groups")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=[DEFAULT])
    parser.add_argument("--seed", nargs="+", type=int, help="default: 0 1; of --table: all")
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--tune-on-seed", type=int, help="run the grids on this seed alone")
    parser.add_argument("--walk", action="store_true", help="only as much of a grid as is needed")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time; 0: in this one")
    parser.add_argument("--data", type=Path, help=f"sets {TRANSLATION_FOLDER}")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    if not (arguments.run or arguments.table):
        parser.error("nothing to do: give --run or --table")
    take_parallel_folder(arguments.data)
    steps: int = arguments.steps
    if arguments.run:
        tasks = [
            task
            for task in arguments.task
            if arguments.group is None or SUITE[task].group in arguments.group
        ]
        make = partial(
            make_runs,
            path=arguments.cache,
            processes=arguments.processes,
            say=partial(print, flush=True),
            is_dry=arguments.dry_run,
        )
        seeds = arguments.seed or [0, 1]
        tuning = arguments.tune_on_seed
        plan_for = partial(plan, tasks, arguments.method, steps=steps)
        cache = read_cache(arguments.cache)
        runs = near_oracle(plan_for(seeds=seeds if tuning is None else [tuning]), cache)
        if arguments.walk:
            while missing := next_runs(runs, cache):
                cache = make(missing)
                if arguments.dry_run:
                    return
        else:
            cache = make(runs)
        if tuning is not None:
            others = [seed for seed in seeds if seed != tuning]
            make(at_best_lr(near_oracle(plan_for(seeds=others), cache), cache, tuning))
    if arguments.table:
        text = page(read_cache(arguments.cache), steps, arguments.seed)
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
