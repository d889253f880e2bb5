"""Kills runs at every kind of place, and compares what they end with with a run left alone.

    python -m bench.kill_matrix --kills 140
    python -m bench.kill_matrix --on-ray --kills 60 --each 3
    python -m bench.kill_matrix --table

In process: SIGKILL in a probe, an applied stage, a restore, a copy of the state, half-way through a
checkpoint's file, between a file and its name, and half-way through a line of the log; SIGTERM in a
probe, a stage and a file; storage that is full from a write on, and that fails in a write. On Ray,
with two workers: both in a worker; SIGKILL of a worker at those places, of the search actor, of a
probe actor, of Ray Train's controller, of the driver, and of the raylet of the node where the
workers are, which can also be drained: taken away 20 s after a notice. Moments are drawn at
random over the whole run, with a seed; ``--each`` is how often one run is killed. A run that shows
no life for ``--timeout-s`` counts as hung, and the stacks of its processes are in its folder.

``other bits``: runs that did not end with the weights and the schedule of the one left alone.
``probes``: runs that lost a probe or have one twice. ``steps again``: most steps of one run that
were taken again, divided by its kills; ``told``: the same of what the run's report says. A
checkpoint is due every 20 steps and stored at the next look, at most 5 steps later, if the one
before is written by then.

Each run is a line of ``results/kill_matrix.jsonl``; runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import measurement
from bench.kill_matrix import in_process, on_ray
from bench.kill_matrix.cases import Case
from bench.kill_matrix.table import table


def main(argv: Sequence[str] | None = None) -> None:
    parser = measurement.options(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="(default: 200)")
    parser.add_argument("--on-ray", action="store_true", help="on Ray, not in process")
    parser.add_argument("--place", nargs="*", help="these places only")
    parser.add_argument("--what", nargs="*", help="these signals and failures only")
    parser.add_argument("--each", type=int, default=1, help="kills of a run (default: 1)")
    parser.add_argument("--config", choices=["default", "paper"], default="default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="(default: 300)")
    parser.add_argument(
        "--table", action="store_true", help="print the table of all that were made"
    )
    parser.add_argument("--folder", type=Path, help="of the runs, which stay there")
    arguments = parser.parse_args(argv)
    file = measurement.RESULTS_FOLDER / "kill_matrix.jsonl"
    known = read(file)
    if not arguments.table:
        with file.open("a", encoding="utf-8") as lines:
            for row in rows(arguments, known):
                print(row, flush=True)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
    print(table(read(file)))


def read(file: Path) -> list[dict[str, Any]]:
    """Return the runs that were made."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def rows(
    arguments: argparse.Namespace, known: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each run that is not known."""
    runner = on_ray if arguments.on_ray else in_process
    names = [
        name
        for name in _names(arguments, runner.KINDS)
        if not any(name.items() <= row.items() for row in known)
    ]
    if not names:
        return
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary, runner.runs(arguments) as run:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        alone = run(folder / "alone", Case("alone", ""))
        assert alone.is_whole, f"the run that is left alone did not end; see {folder}/alone/output"
        for number, name in enumerate(names):
            place, what = name["place"], name["what"]
            generator = random.Random(repr(name))
            calls = alone.calls.get(place, alone.calls["probe"]) // arguments.each
            counts = tuple(generator.randint(1, max(1, calls)) for _ in range(arguments.each))
            started_s = time.monotonic()
            found = run(folder / f"{number}", Case(place, what, counts)).against(alone)
            wall_s = round(time.monotonic() - started_s, 1)
            told = {"wall_s": wall_s, "commit": measurement.commit()}
            yield {**name, "counts": counts, **found, **told}


def _names(
    arguments: argparse.Namespace, kinds: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield what tells each run that is asked for from all others."""
    chosen = [
        (place, what)
        for place, what in kinds
        if place in (arguments.place or [place]) and what in (arguments.what or [what])
    ]
    for number in range(math.ceil(arguments.kills / arguments.each)):
        place, what = chosen[number % len(chosen)]
        yield {
            "on_ray": arguments.on_ray,
            "config": arguments.config,
            "place": place,
            "what": what,
            "seed": arguments.seed + number // len(chosen),
            "each": arguments.each,
        }


if __name__ == "__main__":
    main()
