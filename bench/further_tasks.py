"""AutoLRS on twelve more tasks.

    python bench/further_tasks.py --task autoencoder digits --seed 0 1

Of the first seven nothing was known while the default was designed. Some are chosen to be hard for
it: few samples, so that the run overfits; a large batch; RMSprop, whose first steps are too long.
masked_source and masked_german were made to find out how it should choose on a plateau, the last
three to see afterwards whether that holds. Rivals get the best of five learning rates (LRs) on the
first seed. Losses are the lowest of a run's evaluations, for every method. Tasks on German, or on
the help texts in English, need the folder of text that the benchmark's translation needs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.further_text import GermanLM, MaskedGerman, MaskedHelp, MaskedSource
from bench.quality_data import (
    BYTE_VALUES,
    HalfSizeFashion,
    Rows,
    flat_fashion,
    python_source,
)
from bench.quality_models import Perceptron, ResidualNet
from bench.quality_tasks import Classification, NextToken, QualityTask
from bench.record import record
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.runs import Trial, run_trial
from ray_autolrs.workloads.small_images import Part

METHODS = ("autolrs", "wsd", "cosine", "schedule_free_long_warmup")
WIDER = 10**0.5
"""The default searches half a decade more than the rivals' grid on each side."""


class _Images(Classification):
    def data(self, part: Part) -> Dataset[Any]:
        return flat_fashion(part, None if part == "train" else 2500)


class Autoencoder(_Images):
    """Squared error, which has little gradient noise; Adam."""

    global_batch_size = 128

    def build_model(self) -> nn.Module:
        encoder = (nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 16))
        return nn.Sequential(*encoder, nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 784))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(model(batch[0]), batch[0].flatten(1))


class _GRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTE_VALUES, 32)
        self.recurrent = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, BYTE_VALUES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(self.embedding(ids))[0])
        return logits


class RecurrentLM(NextToken):
    """GRU on the bytes of Python source; AdamW."""

    global_batch_size = 64
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return _GRU()

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return python_source(part, 24, None if part == "train" else 1200)


class FewImages(_Images):
    """A thousand images, read 74 times; AdamW."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=128, dropout=0.3)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return flat_fashion(part, 1000 if part == "train" else 2500)


class LargeBatch(_Images):
    """Twenty epochs in batches of 512, no normalisation; SGD with Nesterov's momentum."""

    global_batch_size = 512

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=96, dropout=0.1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        )


class PlainConvNet(_Images):
    """Two convolutions; RMSprop."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        first, second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return HalfSizeFashion(part, None if part == "train" else 2500)


class Digits(_Images):
    """A thousand tiny images, read 147 times; SGD with momentum."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def data(self, part: Part) -> Dataset[Any]:
        digits = load_digits()
        rows = {
            "train": slice(0, 1000),
            "validation": slice(1000, 1400),
            "test": slice(1400, 1797),
        }[part]
        images = torch.tensor(digits.data[rows] / 16, dtype=torch.float32)
        return Rows(images, torch.tensor(digits.target[rows]))


class ConvNetAdamW(PlainConvNet):
    """The benchmark's residual network, with AdamW and twice the batch."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return ResidualNet(width=8, blocks=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)


class SigmoidNet(_Images):
    """Three hidden layers of sigmoids, which begin on a plateau; SGD with momentum."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (784, 100, 100):
            layers += [nn.Linear(inputs, 100), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(100, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


_ADAM = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_SGD = (0.01, 0.03, 0.1, 0.3, 1.0)
_LOW = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)

TASKS: Mapping[str, tuple[Callable[[], QualityTask], tuple[float, ...]]] = MappingProxyType(
    {
        "autoencoder": (Autoencoder, _ADAM),
        "recurrent_lm": (RecurrentLM, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
        "few_images": (FewImages, _LOW),
        "large_batch": (LargeBatch, _SGD),
        "rmsprop": (PlainConvNet, (*_LOW[1:], 3e-2)),
        "digits": (Digits, _SGD),
        "convnet_adamw": (ConvNetAdamW, _ADAM),
        "masked_source": (MaskedSource, _ADAM),
        "masked_german": (MaskedGerman, _ADAM),
        "masked_help": (MaskedHelp, _ADAM),
        "german_lm": (GermanLM, _ADAM),
        "sigmoid_net": (SigmoidNet, _SGD),
    }
)
"""Every task, with its grid of LRs."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for task, method in itertools.product(arguments.task, arguments.method):
        runs = _tuned(task, method, arguments.seed, arguments.steps)
        losses = [min((loss for _, loss in run.curve), default=run.val_loss) for run in runs]
        rows.append(
            {
                "task": task,
                "method": method,
                "lr": runs[0].lr,
                "mean": sum(losses) / len(losses),
                "losses": losses,
                "at_the_end": [run.curve[-1][1] if run.curve else run.val_loss for run in runs],
                "search": sum(run.search_steps / run.steps for run in runs) / len(runs),
            }
        )
        print(rows[-1], flush=True)
    print(record("further_tasks", {"steps": arguments.steps, "seeds": arguments.seed}, rows))


def _tuned(task: str, method: str, seeds: Sequence[int], steps: int) -> list[RunRecord]:
    """Return a run for each seed at the LR that was best on the first."""
    lrs = TASKS[task][1] if method != "autolrs" else (None,)
    tuning = [_train(task, method, lr, seeds[0], steps) for lr in lrs]
    best = min(tuning, key=lambda run: run.val_loss)
    return [best, *(_train(task, method, best.lr, seed, steps) for seed in seeds[1:])]


def _train(task: str, method: str, lr: float | None, seed: int, steps: int) -> RunRecord:
    make, lrs = TASKS[task]
    interval = (lrs[0] / WIDER, lrs[-1] * WIDER)
    return run_trial(
        make(), Trial(method=method, seed=seed, steps=steps, lr=lr, lr_interval=interval)
    )


if __name__ == "__main__":
    main()
