"""Tasks whose conditions change in mid-run, at a step that their models count.

The model counts the steps that it was trained for in a buffer, which snapshots restore: so every
probe sees the change at the same step, and validation at any step has the conditions of that step.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset

from bench.tasks import images, tabular
from bench.tasks.image_data import HalfSizeFashion
from bench.tasks.kinds import BenchTask, Part, Rows
from bench.tasks.pretraining import pretrained

Change = Literal["none", "shift", "growth", "unfreezing", "shifted"]
"""What changes. ``"shifted"`` is the state after a shift from the first step on: the body of a
run with unfreezing was trained on it."""

SMALL_BATCH = 16
"""Samples of a step before the batch grows, to the task's."""

PRETRAINING_STEPS = 600


class Counting(nn.Module):
    """A body and a head, and how many steps they were trained for.

    Args:
        sizes: of the layers, the inputs' and the outputs' included.
    """

    taken: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes[:-1]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-2], sizes[-1])
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor, *, is_frozen: bool) -> Tensor:
        """Return the outputs; a frozen body gets no gradient."""
        with torch.no_grad() if is_frozen else contextlib.nullcontext():
            hidden = self.body(features)
        outputs: Tensor = self.head(hidden)
        return outputs


class ChangingTask(BenchTask):
    """A small task, of which something changes after so many steps.

    Args:
        change: what changes.
        at: steps after which it does.

    Attributes:
        lrs: three learning rates (LRs) of the schedules planned beforehand, for the optimizer as it
            is. (A fourth, lower one was never the best and was left out.)
        interval: the LRs that our methods search.
    """

    sizes: ClassVar[tuple[int, ...]]
    lrs: ClassVar[tuple[float, ...]]
    interval: ClassVar[tuple[float, float]]

    def __init__(self, change: Change = "none", at: int = 0) -> None:
        self.change = change
        self.at = at
        self.global_batch_size = 128 if change == "growth" else 64

    def build_model(self) -> nn.Module:
        model = Counting(self.sizes)
        if self.change == "unfreezing":
            trained = type(self)("shifted")
            state = pretrained(trained, steps=PRETRAINING_STEPS, seed=0, version=1)
            prefix = "body."
            model.body.load_state_dict(
                {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            )
        return model

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        assert isinstance(model, Counting)
        has_changed = int(model.taken) >= self.at
        features, targets = batch
        if model.training:
            model.taken += 1
            if self.change == "growth" and not has_changed:
                features, targets = features[:SMALL_BATCH], targets[:SMALL_BATCH]
        if self.change == "shifted" or (self.change == "shift" and has_changed):
            features = shifted(features)
        is_frozen = self.change == "unfreezing" and not has_changed
        return self.loss_of(model(features, is_frozen=is_frozen), targets)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch's outputs."""
        return cross_entropy(outputs, targets)


def shifted(features: Tensor) -> Tensor:
    """Return what another instrument measures: images are turned by 90 degrees, columns come in
    the reverse order, and all values are half as large.
    """
    if features.dim() == 2:
        return 0.5 * features.flip(1)
    return 0.5 * features.rot90(1, (-2, -1))


class ChangingDigits(ChangingTask):
    """A thousand tiny images; SGD with momentum."""

    sizes = (64, 64, 64, 10)
    lrs = (0.03, 0.1, 0.3)
    interval = (0.01 / 10**0.5, 0.3 * 10**0.5)

    def data(self, part: Part) -> Dataset[Any]:
        rows = images.Digits().data(part)
        assert isinstance(rows, Rows)
        pixels, labels = rows.tensors
        return Rows(pixels.view(-1, 8, 8), labels)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class ChangingFashion(ChangingTask):
    """Fashion-MNIST at half size, moved and mirrored; Adam."""

    sizes = (196, 64, 64, 10)
    lrs = (3e-3, 1e-2, 3e-2)
    interval = (1e-3 / 10**0.5, 3e-2 * 10**0.5)

    def data(self, part: Part) -> Dataset[Any]:
        return _fashion(part)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)


class ChangingFriedman(ChangingTask):
    """A smooth function of ten features with little noise; RMSprop."""

    sizes = (10, 64, 64, 1)
    lrs = (3e-3, 1e-2, 3e-2)
    interval = (1e-3 / 10**0.5, 3e-2 * 10**0.5)

    def data(self, part: Part) -> Dataset[Any]:
        return tabular.Friedman().data(part)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs[:, 0], targets)


class ChangingTable(ChangingTask):
    """Five classes of points, a fifth of the labels drawn anew; Adagrad."""

    sizes = (40, 96, 96, 5)
    lrs = (1e-2, 3e-2, 1e-1)
    interval = (3e-3 / 10**0.5, 1e-1 * 10**0.5)

    def data(self, part: Part) -> Dataset[Any]:
        return tabular.NoisyTable().data(part)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(model.parameters(), lr=1e-2)


@lru_cache(maxsize=3)
def _fashion(part: Part) -> HalfSizeFashion:
    return HalfSizeFashion(part)


CHANGING_TASKS: Mapping[str, Callable[[Change, int], ChangingTask]] = MappingProxyType(
    {
        "digits": ChangingDigits,
        "fashion": ChangingFashion,
        "friedman": ChangingFriedman,
        "table": ChangingTable,
    }
)
"""By name."""

CHOSEN_ON = ("friedman", "table")
"""Those that the constants of the staged search were chosen on; the others are reported."""
