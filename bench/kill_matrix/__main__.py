"""Kills runs at every kind of place, and compares what they end with with a run left alone.

    python -m bench.kill_matrix --kills 40
    python -m bench.kill_matrix --on-ray --kills 10

In process: SIGKILL in a probe, an applied stage, a restore, a copy of the state, half-way through a
checkpoint's file, between a file and its name, and half-way through a line of the log; SIGTERM in a
probe, a stage and a file; a disk that is full from a write on. On Ray, with two workers: SIGKILL of
a worker at those places, of the search actor, of a probe actor, of Ray Train's controller, and of
the driver. Moments are drawn at random over the whole run, with a seed. A run that has not ended
after ``--timeout-s`` counts as hung, and its stacks are written to its folder.

``other bits``: runs that did not end with the weights and the schedule of the one left alone.
``probes``: runs that lost a probe or have one twice. ``steps again``: most steps of one run that
were taken again; ``told``: the most that a run's own report says. A checkpoint is due every 20
steps and stored at the next look, at most 5 steps later, if the one before is written by then.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.kill_matrix import in_process, on_ray
from bench.kill_matrix.cases import Case, Outcome
from bench.measurement import Row, options, write_results


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="(default: 200)")
    parser.add_argument("--on-ray", action="store_true", help="on Ray, not in process")
    parser.add_argument("--place", nargs="*", help="these places only")
    parser.add_argument("--config", choices=["default", "paper"], default="default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="(default: 300)")
    arguments = parser.parse_args(argv)
    name = "kill_matrix_on_ray" if arguments.on_ray else "kill_matrix"
    write_results(name, vars(arguments), rows(arguments))


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each kind of kill, once all of them are made."""
    runner = on_ray if arguments.on_ray else in_process
    with tempfile.TemporaryDirectory(prefix="kills-") as path, runner.runs(arguments) as run:
        folder = Path(path)
        alone = run(folder / "alone", Case("alone", "", 0))
        assert alone.is_whole, "the run that is left alone did not end"
        found: dict[str, list[Outcome]] = {}
        generator = random.Random(arguments.seed)
        kinds = [kind for kind in runner.KINDS if not arguments.place or kind[0] in arguments.place]
        for number in range(arguments.kills):
            place, what = kinds[number % len(kinds)]
            count = generator.randint(1, max(1, alone.calls.get(place, 1)))
            outcome = run(folder / str(number), Case(place, what, count))
            found.setdefault(f"{what} in {place}", []).append(outcome)
            print(number, place, what, count, outcome.against(alone), flush=True)
        for kind, outcomes in found.items():
            compared = [outcome.against(alone) for outcome in outcomes]
            yield {
                "kind": kind,
                "kills": sum(outcome.happened for outcome in outcomes),
                "hung": sum(outcome.hung for outcome in outcomes),
                "other bits": sum(not each["same_bits"] for each in compared),
                "probes": sum(not each["same_probes"] for each in compared),
                "steps again": max(each["steps_again"] for each in compared),
                "told": max(outcome.told_lost_steps for outcome in outcomes),
            }


if __name__ == "__main__":
    main()
