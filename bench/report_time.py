"""How long the report of a long run takes, and how large log and page are.

    python -m bench.report_time --steps 100000 1000000

The run is made up: the paper's stages and probes, told to the real search actor, with noisy
losses that fall. Its Gaussian process is not fitted, but each probe has a fit's parameters. The
page is that of the folder, as ``ray-autolrs report`` writes it, in seconds of the processor.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.measurement import Row, options, write_results
from ray_autolrs import AutoLRSConfig, GaussianProcess
from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Observation,
    ProbeLosses,
    StageContext,
)
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Finish, Probe, ProbeDone, Ready
from ray_autolrs.cluster.run_folder import CONFIG_FILE, RunFolder
from ray_autolrs.cluster.run_report import write_report
from ray_autolrs.cluster.search_actor import SearchActor

BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfitted(GaussianProcess):
    """Asks for LRs even in log LR, and says that a fit did."""

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        place = len(told) + len(running)
        if place == self.probes:
            return None
        low, high = context.facts.lr_interval
        lr = low * (high / low) ** ((place + 0.5) / self.probes)
        fit = {"length_scale": 0.3, "noise": 0.05, "mean": 0.0} if place > 0 else {}
        steps = round(context.stage.steps * self.probe_fraction)
        evals = 0 if context.stage.grows else self.validation_evals
        return Candidate(lr, steps, evals, context.facts.shape, fit)

    def judge(self, context: StageContext, candidate: Candidate, losses: ProbeLosses) -> Forecast:
        return Forecast(loss=losses.training[-1], std=0.01)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args(argv)
    write_results("report_time", vars(arguments), (measure(steps) for steps in arguments.steps))


def measure(steps: int) -> Row:
    """Return how long the page of a run of so many applied steps takes."""
    with tempfile.TemporaryDirectory() as storage:
        folder = RunFolder(storage, "run")
        losses = make_run(folder, steps)
        begin_s = time.process_time()
        page = write_report(folder.path)
        seconds = time.process_time() - begin_s
        log = sum(path.stat().st_size for path in Path(folder.path).glob("events*.jsonl"))
        return {
            "applied steps": steps,
            "losses in the log": losses,
            "log, MB": log / 1e6,
            "report, s": seconds,
            "page, MB": Path(page).stat().st_size / 1e6,
        }


def make_run(folder: RunFolder, steps: int) -> int:
    """Leave a run's folder without its checkpoints; return how many losses its log holds."""
    config = AutoLRSConfig.paper(steps, (1e-3, 1.0), search=Unfitted())
    config = config.resolve(global_batch_size=BATCH)
    folder.write_json(CONFIG_FILE, config.to_json())
    actor = SearchActor(config, folder)
    counted = 0
    command = actor.exchange(Ready(0))
    while not isinstance(command, Finish):
        losses = tuple(_losses(command))
        counted += len(losses)
        if isinstance(command, Probe):
            told = losses[: command.evals]
            done = ProbeDone(command.stage, command.index, losses, told, False, 1.0)
            command = actor.exchange(done)
        else:
            at = command.segment.last_step + 1
            means = ((at, "loss", losses[-1]), (at, "accuracy", 0.9))
            command = actor.exchange(
                ApplyDone(command.stage, command.attempt, losses, False, 10.0, means)
            )
    return counted


def _losses(command: Probe | Apply) -> Iterator[float]:
    first = command.segment.first_step
    noise = np.random.default_rng(first).normal(0.0, 0.05, command.steps)
    falling = 1.0 + 3.0 / np.sqrt(1.0 + first + np.arange(command.steps))
    yield from (falling + noise).tolist()


if __name__ == "__main__":
    main()
