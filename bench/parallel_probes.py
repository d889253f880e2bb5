"""How long a stage's search takes with more lanes.

    python -m bench.parallel_probes --lanes 1 2 5 10

Every optimizer step waits 20 ms, as for an accelerator; the model is small, so that two cores can
stand for a cluster. One lane is the training worker, the others are probe actors. The first stage
is left out: actors start in it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSTrainer,
    GaussianProcess,
    Lanes,
    Stages,
    TrainingTask,
    Validation,
)
from ray_autolrs.cluster.event_log import EventLog
from ray_autolrs.cluster.run_folder import RunFolder

STAGES = 3


class Waiting(TrainingTask):
    """A small network whose step waits, without using a core."""

    global_batch_size = 8

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def train_dataset(self) -> TensorDataset:
        points = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return TensorDataset(points, (points.sum(dim=1) > 0).long())

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        if model.training:
            time.sleep(self._wait_s)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 5, 10, 32])
    parser.add_argument("--steps", type=int, default=100, help="of a probe, and of a stage")
    parser.add_argument("--step-wait-s", type=float, default=0.020)
    arguments = parser.parse_args(argv)
    ray.init(address="local", num_cpus=2 + max(arguments.lanes), log_to_driver=False)
    try:
        write_results("parallel_probes", vars(arguments), measure(arguments))
    finally:
        ray.shutdown()


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the seconds of a search with each number of lanes."""
    sequential_s: dict[int, float] = {}
    for lanes in arguments.lanes:
        probes = max(10, lanes)
        records = run_records(lanes, probes, arguments.steps, arguments.step_wait_s)
        search_s = statistics.median(search_seconds(records))
        probe_s = statistics.median(r["wall_s"] for r in records if r["kind"] == "probe")
        one_by_one_s = sequential_s.setdefault(probes, probes * probe_s)
        yield {
            "lanes": lanes,
            "probes": probes,
            "one probe, s": probe_s,
            "search, s": search_s,
            "search / one probe": search_s / probe_s,
            "speed-up over one by one": one_by_one_s / search_s,
            "efficiency": math.ceil(probes / lanes) * probe_s / search_s,
        }


def run_records(lanes: int, probes: int, steps: int, wait_s: float) -> list[dict[str, Any]]:
    """Return the log of a run whose stages are searched with this many probes at a time."""
    with tempfile.TemporaryDirectory() as storage:
        AutoLRSTrainer(
            Waiting(wait_s),
            settings(lanes, probes, steps),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="run", storage_path=storage),
        ).fit()
        return EventLog(RunFolder(storage, "run")).records


def settings(lanes: int, probes: int, steps: int) -> AutoLRSConfig:
    """Return stages that are as long as their probes; one lane is the worker."""
    return AutoLRSConfig.paper(
        STAGES * steps,
        (1e-3, 1.0),
        search=GaussianProcess(probes=probes, probe_fraction=1.0, validation_evals=8),
        stages=Stages(first_steps=steps, longest_steps=steps, growth=1),
        validation=Validation(probe_samples=8, keep_best=False),
        lanes=Lanes(kind="actors", actors=lanes - 1) if lanes > 1 else Lanes(kind="workers"),
    )


def search_seconds(records: Sequence[dict[str, Any]]) -> list[float]:
    """Return the seconds of each search but the first: from a stage's end to the next choice."""
    marks = [record for record in records if record["kind"] in ("apply", "choice")]
    return [
        choice["time"] - applied["time"]
        for applied, choice in itertools.pairwise(marks)
        if (applied["kind"], choice["kind"]) == ("apply", "choice")
    ]


if __name__ == "__main__":
    main()
