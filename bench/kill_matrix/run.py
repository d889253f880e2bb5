"""The run that is killed: a small network, whose steps are counted in a file over all processes."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.kill_matrix.moments import STEP_HOOKS, Moment
from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSTrainer,
    Checkpoints,
    GaussianProcess,
    Lanes,
    Stages,
    TrainingTask,
)

EVERY_STEPS = 20
STEP_S = 0.004
"""Each step waits so long in place of an accelerator's work; a checkpoint takes some steps."""

NAME = "run"


class CountedTask(TrainingTask):
    """A network with batch normalisation and dropout on random data.

    Args:
        counts: a file that gets a byte for each training step of rank 0, probes included.
        moment: when a process of the run is killed, if one is.
    """

    global_batch_size = 16
    micro_batch_size = 8

    def __init__(self, counts: Path, moment: Moment | None) -> None:
        self.counts = counts
        self.moment = moment

    def build_model(self) -> nn.Module:
        if self.moment is not None:
            self.moment.install()
        layers = (nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))
        return nn.Sequential(*layers, nn.Linear(32, 4)).double()

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_dataset(self) -> TensorDataset:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(256, 16, generator=generator, dtype=torch.float64)
        return TensorDataset(x, (x[:, :4] * x[:, 4:8]).argmax(dim=1))

    def val_dataset(self) -> TensorDataset:
        return TensorDataset(*self.train_dataset()[:64])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if torch.is_grad_enabled():
            for hook in STEP_HOOKS:
                hook()
            time.sleep(STEP_S / 2)
            with self.counts.open("ab") as file:
                file.write(b".")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def config(kind: str, lanes: str) -> AutoLRSConfig:
    values: dict[str, Any] = {"divergence_check_steps": 5, "lanes": Lanes(kind=lanes)}
    values["checkpoints"] = Checkpoints(every_steps=EVERY_STEPS)
    if kind == "paper":
        stages = Stages(first_steps=60, longest_steps=120)
        search = GaussianProcess(probes=4, validation_evals=2)
        return AutoLRSConfig.paper(240, (1e-3, 1.0), stages=stages, search=search, **values)
    return AutoLRSConfig(total_steps=240, lr=(1e-3, 1.0), **values)


def fit(folder: Path, arguments: argparse.Namespace, moment: Moment | None) -> None:
    """Run to the end, and write what the run has left to ``folder/outcome.json``."""
    result = AutoLRSTrainer(
        CountedTask(folder / "steps", moment),
        config(arguments.config, arguments.lanes),
        scaling_config=ScalingConfig(num_workers=arguments.workers),
        run_config=RunConfig(
            name=NAME,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=arguments.max_failures),
        ),
    ).fit()
    with result.checkpoint.as_directory() as path:
        model = torch.load(f"{path}/model.pt")
    weights = b"".join(model[name].numpy().tobytes() for name in sorted(model))
    probes = [(e["stage"], e["index"]) for e in result.events if e["kind"] == "probe"]
    outcome = {
        "weights": hashlib.sha256(weights).hexdigest(),
        "schedule": (folder / NAME / "schedule.json").read_text(),
        "probes": sorted(probes),
        "told_lost_steps": result.costs.lost_steps,
        "reused_steps": sum(e["reused_steps"] for e in result.events if e["kind"] == "apply"),
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="default")
    parser.add_argument("--lanes", default="sequential")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--max-failures", type=int, default=0)
    parser.add_argument("--address")
    parser.add_argument("--moment", nargs=3, metavar=("PLACE", "COUNT", "WHAT"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.workers:
        ray.init(address=arguments.address, log_to_driver=False)
    moment = None
    if arguments.moment:
        place, count, what = arguments.moment
        moment = Moment(place, int(count), what, arguments.folder / "happened")
    fit(arguments.folder, arguments, moment)


if __name__ == "__main__":
    main()
