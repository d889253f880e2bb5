"""What a paper run costs on 8 to 4096 GPUs, on paper: wall time, GPU hours, goodput, search.

    python -m bench.scale_model --parameters 7e9 --compute-s 400

Nothing is trained. A step of W workers takes C/W + 2 b P (W - 1) / (W n): the compute C of a
global batch on one GPU, and a ring's exchange of P gradients of b bytes at n bytes a second. A
search makes k probes of a tenth of a stage: one after the other by all W, or in rounds by lanes of
G workers each, on the same GPUs. Lanes of several workers are not built yet. A checkpoint of 12 P
bytes is written after each stage. A failure costs half a stage and a restart. Constants that were
measured on two cores say in which bench; the rest are options.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.measurement import Row, options, write_results
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages, plan_stages
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess

GRADIENT_BYTES = 4
STATE_BYTES = 12
"""Of a parameter in a snapshot: float32 weights and Adam's two moments."""

PROPOSAL_S = 0.15
"""For each round of probes, to fit the process and to hand them out (bench.parallel_probes)."""

STORE_BYTES_S = 11e9
"""At which a lane reads a snapshot from its node's object store (bench.snapshot_store)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run and what it runs on.

    Attributes:
        gpus: all of them train, one worker each.
        lane_gpus: workers in a lane of the search; as many as ``gpus`` is one after the other.
        parameters: of the model.
        compute_s: of a global batch on one GPU.
        network_bytes_s: of one GPU to the next.
        storage_bytes_s: of all workers together.
        failures_per_gpu_hour: that end the workers.
        restart_s: until they train again.
        total_steps: of the run; its stages are the paper's.
        probes: of a stage.
    """

    gpus: int
    lane_gpus: int
    parameters: float
    compute_s: float
    network_bytes_s: float = 25e9
    storage_bytes_s: float = 10e9
    failures_per_gpu_hour: float = 2e-5
    restart_s: float = 120.0
    total_steps: int = 100_000
    probes: int = 10


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run takes, in seconds."""

    train_s: float
    search_s: float
    checkpoint_s: float
    lost_s: float

    @property
    def wall_s(self) -> float:
        """Of the whole run."""
        return self.train_s + self.search_s + self.checkpoint_s + self.lost_s

    @property
    def goodput(self) -> float:
        """Part of the time in which the model that is kept was trained."""
        return self.train_s / self.wall_s


def step_s(setting: Setting, workers: int) -> float:
    """Return the time of a step of a global batch by so many workers."""
    sent = 2 * GRADIENT_BYTES * setting.parameters * (workers - 1) / workers
    return setting.compute_s / workers + sent / setting.network_bytes_s


def search_s(probe_s: float, rounds: int, snapshot_s: float = 0.0) -> float:
    """Return the time of a search from that of a probe, and of a lane's read of the snapshot."""
    return rounds * (probe_s + PROPOSAL_S) + snapshot_s


def predict(setting: Setting) -> Prediction:
    """Return what a run takes."""
    search = GaussianProcess(probes=setting.probes)
    lanes = setting.gpus // setting.lane_gpus
    state = STATE_BYTES * setting.parameters
    # A lane reads the snapshot over the network, and then from its node's store.
    read_s = state / setting.network_bytes_s + state / STORE_BYTES_S if lanes > 1 else 0.0
    stages = paper_stages(setting.total_steps)
    searched_s = sum(
        search_s(
            round(stage.steps * search.probe_fraction) * step_s(setting, setting.lane_gpus),
            search.expected_rounds(stage.number, lanes),
            read_s,
        )
        for stage in stages
    )
    train_s = setting.total_steps * step_s(setting, setting.gpus)
    checkpoint_s = len(stages) * state / setting.storage_bytes_s
    # Half a stage with its search, at each failure of a run that is so much longer by them.
    stage_s = (train_s + searched_s) / len(stages)
    rate = setting.failures_per_gpu_hour * setting.gpus / 3600
    each_s = stage_s / 2 + setting.restart_s
    busy_s = train_s + searched_s + checkpoint_s
    lost_s = math.inf if rate * each_s >= 1 else busy_s * rate * each_s / (1 - rate * each_s)
    return Prediction(
        train_s=train_s, search_s=searched_s, checkpoint_s=checkpoint_s, lost_s=lost_s
    )


def paper_stages(total_steps: int) -> tuple[Stage, ...]:
    """Return the stages of the paper's preset."""
    return plan_stages(Stages(first_steps=1000, longest_steps=8000, growth=2), total_steps)


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each number of GPUs, one after the other beside ten lanes or more."""
    for gpus in arguments.gpus:
        together = Setting(
            gpus=gpus,
            lane_gpus=gpus,
            parameters=arguments.parameters,
            compute_s=arguments.compute_s,
            network_bytes_s=1e9 * arguments.network_gb_s,
            storage_bytes_s=1e9 * arguments.storage_gb_s,
            failures_per_gpu_hour=arguments.failures_per_gpu_hour,
        )
        split = replace(together, lane_gpus=max(1, gpus // together.probes))
        one, ten = predict(together), predict(split)
        yield {
            "GPUs": gpus,
            "step, s": step_s(together, gpus),
            "training, h": one.train_s / 3600,
            "search / training": one.search_s / one.train_s,
            "with lanes": ten.search_s / ten.train_s,
            "wall, h": one.wall_s / 3600,
            "wall with lanes, h": ten.wall_s / 3600,
            "GPU h": gpus * ten.wall_s / 3600,
            "goodput": one.goodput,
            "goodput with lanes": ten.goodput,
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32, 128, 512, 1024, 4096])
    parser.add_argument("--parameters", type=float, default=7e9)
    parser.add_argument("--compute-s", type=float, default=400.0)
    parser.add_argument("--network-gb-s", type=float, default=25.0)
    parser.add_argument("--storage-gb-s", type=float, default=10.0)
    parser.add_argument("--failures-per-gpu-hour", type=float, default=2e-5)
    arguments = parser.parse_args(argv)
    write_results("scale_model", vars(arguments), rows(arguments))


if __name__ == "__main__":
    main()
