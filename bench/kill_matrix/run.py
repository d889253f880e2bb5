"""The run that is killed: a small network, whose steps are counted in a file over all processes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.kill_matrix.cases import Case
from bench.kill_matrix.moments import IN_PROCESS, STEP_HOOKS, Moment, count_calls
from bench.kill_matrix.stacks import write_stacks_when_asked
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
        folder: has a file that gets a byte for each training step, probes included.
        case: how a process of the run is killed, if one is.
    """

    global_batch_size = 16
    micro_batch_size = 8

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder = folder
        self.case = case

    def build_model(self) -> nn.Module:
        if ray.is_initialized():  # a worker
            write_stacks_when_asked(self.folder)
        if not self.case.what:
            count_calls(self.folder)
        elif self.case.place in IN_PROCESS:
            Moment(self.case.place, self.case.counts, self.case.what, self.folder).install()
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
            with (self.folder / "steps").open("ab") as file:
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


def fit(
    folder: Path,
    case: Case,
    *,
    kind: str,
    workers: int = 0,
    lanes: str = "sequential",
    max_failures: int = 0,
    resources: dict[str, float] | None = None,
    address: str | None = None,
) -> None:
    """Run to the end, and write what the run has left to ``folder/outcome.json``.

    Args:
        folder: of the run, and of all that is noted of it.
        case: its kills.
        kind: of the settings: default or paper.
        workers: 0 is without Ray.
        lanes: who runs the probes.
        max_failures: how often Ray Train starts lost workers again.
        resources: what each worker takes.
        address: Ray's.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if workers:
        ray.init(address=address, log_to_driver=False)
    result = AutoLRSTrainer(
        CountedTask(folder, case),
        config(kind, lanes),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker=resources),
        run_config=RunConfig(
            name=NAME,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=max_failures) if workers else None,
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
