"""How many probes a second one search actor hands out, and what it holds, with up to 1000 lanes.

    python -m bench.many_lanes --lanes 10 100 1000

The actor is the real one, in this process; lanes are threads that wait as long as a probe takes and
tell made-up losses. A stage has as many probes as lanes, all of which are asked for at once.
"""

from __future__ import annotations

import math
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.measurement import Row, options, write_results
from ray_autolrs import AutoLRSConfig, Stages, Validation, Warmup
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    SearchStrategy,
    StageContext,
)
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Finish, Probe, ProbeDone, Ready
from ray_autolrs.cluster.lanes.leases import Over
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor

STAGES, STEPS = 3, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class AtOnce(SearchStrategy):
    """Tries LRs even in log LR, all at once, at each stage."""

    probes: int

    @property
    def most_parallel_probes(self) -> int:
        return self.probes

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        place = len(told) + len(running)
        if place == self.probes:
            return None
        low, high = context.facts.lr_interval
        lr = low * (high / low) ** ((place + 0.5) / self.probes)
        return Candidate(lr, STEPS, 0, context.facts.shape)

    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        judged = [(one.forecast.loss, one.index) for one in told if one.forecast is not None]
        return Choice(told[min(judged)[1]].peak_lr, min(judged)[1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--lanes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--probe-s", type=float, default=0.0)
    arguments = parser.parse_args(argv)
    measured = (simulate(lanes, arguments.probe_s) for lanes in arguments.lanes)
    write_results("many_lanes", vars(arguments), measured)


def simulate(lanes: int, probe_s: float) -> Row:
    """Return how a run goes whose stages are searched by so many lanes."""
    steps = STEPS * STAGES
    config = AutoLRSConfig.paper(
        steps,
        (1e-3, 1.0),
        search=AtOnce(probes=lanes),
        stages=Stages(first_steps=STEPS, longest_steps=STEPS, growth=1),
        validation=Validation(probe_samples=8, keep_best=False),
        warmup=Warmup(steps=0),
    ).resolve(global_batch_size=8)
    before_bytes = _peak_bytes()
    with tempfile.TemporaryDirectory() as storage:
        actor = SearchActor(config, RunFolder(storage, "run"), lanes)
        threads = [
            threading.Thread(target=_run_lane, args=(actor, f"actor-{number}", probe_s))
            for number in range(lanes - 1)
        ]
        for thread in threads:
            thread.start()
        searched_s = list(_train(actor, probe_s))
        for thread in threads:
            thread.join()
    return {
        "lanes": lanes,
        "probes": lanes * STAGES,
        "search, s": sum(searched_s) / STAGES,
        "probes / s": lanes * STAGES / sum(searched_s),
        "MB": (_peak_bytes() - before_bytes) / 1e6,
    }


def _train(actor: SearchActor, probe_s: float) -> Iterator[float]:
    """Stand for the training worker; yield the seconds of each search."""
    command = actor.exchange(Ready(0))
    while not isinstance(command, Finish):
        if isinstance(command, Apply):
            losses = (1.0,) * command.steps
            evaluations = ((command.segment.last_step + 1, "loss", 1.0),)
            done = ApplyDone(command.stage, command.attempt, losses, False, 0.0, evaluations)
            command = actor.exchange(done)
            continue
        began_s = time.perf_counter()
        _run_lane(actor, "worker-0", probe_s)
        yield time.perf_counter() - began_s
        command = actor.exchange(None)


def _run_lane(actor: SearchActor, lane: str, probe_s: float) -> None:
    told: ProbeDone | None = None
    while True:
        assignment = actor.pull(lane, told, stays=lane.startswith("actor"))
        told = None
        match assignment:
            case Probe():
                time.sleep(probe_s)
                loss = 1.0 + math.log10(assignment.segment.peak_lr / 0.05) ** 2
                losses = (loss,) * STEPS
                told = ProbeDone(assignment.stage, assignment.index, losses, (), False, probe_s)
            case Over():
                return


def _peak_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
