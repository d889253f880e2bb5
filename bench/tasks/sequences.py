"""Further tasks on sequences: language with Lion, numbers to be added up, German to English."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

from bench.tasks.kinds import BenchTask, NextToken, Part, Rows
from bench.tasks.networks import TokenTransformer
from bench.tasks.optimizers import Lion
from bench.tasks.text_data import BYTE_VALUES, english_bytes
from bench.tasks.translation import PairRows, Translation


class LionLM(NextToken):
    """Transformer on the bytes of English; Lion."""

    global_batch_size = 24
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(
            vocabulary=BYTE_VALUES, places=24, width=48, layers=2, heads=2, causal=True
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return Lion(model.parameters(), lr=3e-4, weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return english_bytes(part, 24, None if part == "train" else 1200)


class Adding(BenchTask):
    """A GRU adds up the two marked numbers of 12 (Hochreiter & Schmidhuber 1997); RMSprop.

    The loss stays on a plateau, the targets' variance, until the marks are found.
    """

    global_batch_size = 32
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return SumReader(width=32)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return _marked_numbers(part)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(model(batch[0]), batch[1])


class SumReader(nn.Module):
    """A GRU whose last state is read out."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(2, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return a number for each row of shape (batch, places, 2)."""
        features, _ = self.recurrent(numbers)
        sums: Tensor = self.head(features[:, -1])[:, 0]
        return sums


class GermanToEnglish(Translation):
    """The translation's pairs the other way round, in batches of 16; AdamW."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        rows = super().data(part)
        assert isinstance(rows, PairRows), rows
        return PairRows(*reversed(rows.tensors))


@lru_cache(maxsize=3)
def _marked_numbers(part: Part, places: int = 12) -> Rows:
    count = 20_000 if part == "train" else 1000
    generator = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[part])
    numbers = torch.rand(count, places, generator=generator)
    chosen = torch.rand(count, places, generator=generator).argsort(dim=1)[:, :2]
    marks = torch.zeros(count, places).scatter(1, chosen, 1.0)
    return Rows(torch.stack([numbers, marks], dim=2), (numbers * marks).sum(dim=1))
