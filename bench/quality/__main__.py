"""How good the schedules are that AutoLRS finds: eight real tasks, each method tuned by LR.

    python -m bench.quality --method autolrs cosine --seed 0 1 2 --tune-on-seed 0 --processes 2
    python -m bench.quality --table

Each run that ends is a line of results/quality.jsonl and is not made again; --redo makes it
again, after a change of the method, and the table takes the newest. With --tune-on-seed N the
grid is run on that seed alone, and the best learning rate by validation loss on the others.
The translation needs a folder of text: see TRANSLATION_FOLDER in tasks/text_data.py, or --data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.measurement import options
from bench.quality.runs import (
    RESULTS,
    make_runs,
    plan,
    plan_tuned,
    read_records,
    seconds_by_task,
)
from bench.quality.table import page
from bench.tasks.catalogue import TASKS
from bench.tasks.text_data import TRANSLATION_FOLDER, take_parallel_folder
from ray_autolrs.comparison.baselines import CLOSE_RELATIVES
from ray_autolrs.comparison.runs import METHODS
from ray_autolrs.comparison.table import markdown

PAGE = Path(__file__).parents[1] / "quality.md"


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    usual = [name for name in METHODS if name not in CLOSE_RELATIVES]
    parser.add_argument("--method", nargs="+", choices=METHODS, default=usual)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--lr", nargs="+", type=float, help="in place of each task's own grid")
    parser.add_argument("--tune-on-seed", type=int, help="run the grid on this seed alone")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time; 0: in this one")
    parser.add_argument("--data", type=Path, help=f"sets {TRANSLATION_FOLDER}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--redo", action="store_true", help="make runs again that the file has")
    parser.add_argument("--table", action="store_true", help="write the page, make no runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    if arguments.table:
        records = read_records(arguments.results)
        arguments.page.write_text(page(records, arguments.steps), encoding="utf-8")
        print(markdown(seconds_by_task(records)))
        return
    take_parallel_folder(arguments.data)
    make = partial(
        make_runs,
        path=arguments.results,
        processes=arguments.processes,
        say=partial(print, flush=True),
        redo=arguments.redo,
    )
    plan_for = partial(plan, arguments.task, arguments.method, steps=arguments.steps)
    if arguments.tune_on_seed is None:
        make(plan_for(seeds=arguments.seed, lrs=arguments.lr))
        return
    records = make(plan_for(seeds=[arguments.tune_on_seed], lrs=arguments.lr))
    others = [seed for seed in arguments.seed if seed != arguments.tune_on_seed]
    make(plan_tuned(plan_for(seeds=others, lrs=arguments.lr), records, arguments.tune_on_seed))


if __name__ == "__main__":
    main()
