"""Train a small residual network on scikit-learn's digits, and find its LR schedule on the way.

By itself, on a Ray that it starts:      python jobs/quickstart.py
Ten probes at once on a laptop:          python jobs/quickstart.py --address local --probe-actors 10
On a Ray that runs here already:         ray start --head, then python jobs/quickstart.py
On a cluster:                            ray job submit -- python jobs/quickstart.py
"""

import argparse
import logging
import os
from collections.abc import Sequence

import numpy as np
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSResult,
    AutoLRSTrainer,
    Lanes,
    Stages,
    TrainingTask,
    Warmup,
)
from ray_autolrs.report.lane_timeline import lane_timeline
from ray_autolrs.report.stage_table import stage_table

PARTS = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, 1797)}


class Residual(nn.Module):
    """Two convolutions with batch normalisation, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.body(images))


class Digits(TrainingTask):
    """1,797 images of handwritten digits, 8x8 pixels, in scikit-learn's wheel."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            Residual(16),
            nn.MaxPool2d(2),
            Residual(16),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 10),
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def train_dataset(self) -> TensorDataset:
        return self.part("train")

    def val_dataset(self) -> TensorDataset:
        return self.part("validation")

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    def metrics(self, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        return {"accuracy": (model(images).argmax(dim=1) == labels).float().mean()}

    def part(self, name: str) -> TensorDataset:
        digits = load_digits()
        # Shuffled once: the file is ordered by writer.
        rows = np.random.default_rng(0).permutation(len(digits.target))[PARTS[name]]
        images = torch.tensor(digits.images[rows] / 16, dtype=torch.float32).unsqueeze(1)
        return TensorDataset(images, torch.tensor(digits.target[rows]))


def test_accuracy(result: AutoLRSResult) -> float:
    """Return the trained model's accuracy on images that no training or search has seen."""
    task = Digits()
    model = task.build_model()
    with result.checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(f"{folder}/model.pt", map_location="cpu"))
    model.eval()
    images, labels = task.part("test").tensors
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-workers", type=int, default=2, help="training workers (default: 2)")
    parser.add_argument("--use-gpu", action="store_true", help="give each worker a GPU")
    parser.add_argument("--storage-path", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--name", default="quickstart", help="a run's name is its folder below it")
    parser.add_argument("--total-steps", type=int, default=1150, help="default: 1150")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--method",
        choices=("paper", "default"),
        default="paper",
        help="search every stage as the paper does, or once before the first step (default: paper)",
    )
    parser.add_argument(
        "--probe-actors",
        type=int,
        help="probe on so many actors besides the workers, and print which lane ran which probe; "
        "by default as many as are free and make the search faster. With --address local there are "
        "CPUs for them in name: they take turns on those that there are",
    )
    parser.add_argument(
        "--address",
        help="Ray to use: 'local' starts one; by default, one that runs here, else a new one",
    )
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    workers, actors = arguments.num_workers, arguments.probe_actors

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if workers > 0:
        cpus = None
        if arguments.address == "local" and actors is not None:
            cpus = max(os.cpu_count() or 1, workers + actors)
        # The workers' own logs stay in Ray's log folder; their errors come back by themselves.
        ray.init(
            address=arguments.address,
            num_cpus=cpus,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )

    steps, seed = arguments.total_steps, arguments.seed
    lanes = Lanes(kind="actors", actors=actors) if actors is not None else Lanes()
    if arguments.method == "default":
        config = AutoLRSConfig(total_steps=steps, lr=(1e-3, 1.0), seed=seed, lanes=lanes)
    else:
        config = AutoLRSConfig.paper(
            total_steps=steps,
            # The paper's forecast takes a loss that jumps and falls back for a fast descent: with
            # LRs up to 1.0 it ruined two runs of two (bench/NOTES.md).
            lr=(1e-3, 0.1),
            warmup=Warmup(steps=50, lr=0.01),
            stages=Stages(first_steps=100, longest_steps=400),
            seed=seed,
            lanes=lanes,
        )
    result = AutoLRSTrainer(
        Digits(),
        config,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=arguments.use_gpu),
        run_config=RunConfig(name=arguments.name, storage_path=arguments.storage_path),
    ).fit()

    print()
    print(stage_table(result.events))
    print()
    if actors is not None:
        searched = {event["stage"] for event in result.events if event["kind"] == "probe"}
        print(lane_timeline(result.events, max(searched)))
        print()
    print(f"validation: {result.metrics}")
    print(f"test accuracy: {test_accuracy(result):.4f}")
    print(f"files: {result.path}")


if __name__ == "__main__":
    main()
