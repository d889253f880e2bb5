"""What a probe's validation costs, over the probe's steps.

    python -m bench.probe_validation

The default's probes, of the first search of a run of 2300 steps: how long they are and what they
are validated on follows from the settings alone. The model is that of `python -m bench.steps`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Subset

from bench.measurement import Row, options, write_results
from bench.steps import Transformer
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, Ready
from ray_autolrs.algorithm.stages.phases import RunState
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.worker import Worker

TOTAL_STEPS = 2300


class Validated(Transformer):
    """As many samples to validate as the default would take."""

    eval_batch_size = 64

    def val_dataset(self) -> Subset[object]:
        return Subset(self.train_dataset(), range(512))


def measure(rounds: int, device: torch.device, width: int = 32) -> Iterator[Row]:
    """Yield the part of a probe's time that its validation takes."""
    task = Validated(width)
    config = AutoLRSConfig(total_steps=TOTAL_STEPS, lr=(1e-4, 1e-2))
    config = config.resolve(global_batch_size=task.global_batch_size)
    worker = Worker(task, config.training_settings(), Solo(), device)
    worker.take_snapshot(0)
    state, _ = advance(config.plan(), RunState(), Ready(step=0, base_momentum=0.9))
    (probe, *_) = outstanding(state)
    assert isinstance(probe, Probe)
    engine, evaluation = worker.engine, worker.probe_evaluation()
    losses = engine.loss_table(probe.steps)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    ratios = []
    for _ in range(rounds + 1):
        started_s = clock()
        for _ in engine.steps(0, probe.steps, probe.segment.lr_at, losses):
            pass
        losses.sum().item()
        stepped_s = clock()
        for _ in range(max(1, probe.evals)):
            engine.evaluate(evaluation, probe.steps)
        ratios.append((clock() - stepped_s) / (stepped_s - started_s))
    yield {
        "probe steps": probe.steps,
        "evaluations": probe.evals,
        "samples": evaluation.samples,
        "validation / steps": statistics.median(ratios[1:]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = measure(arguments.rounds, torch.device(arguments.device))
    write_results("probe_validation", vars(arguments), rows)


if __name__ == "__main__":
    main()
