"""The benchmarks' language models: of bytes and of byte pairs, the next one or masked ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from bench.tasks.kinds import BenchTask, NextToken, Part
from bench.tasks.networks import RecurrentNet, TokenTransformer
from bench.tasks.text_data import (
    BYTE_VALUES,
    Text,
    english_bytes,
    masked_text,
    python_source,
    text_windows,
)


class ByteLM(NextToken):
    """Transformer on the bytes of Python source; AdamW."""

    global_batch_size = 8
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(
            vocabulary=BYTE_VALUES, places=32, width=48, layers=2, heads=2, causal=True
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return python_source(part, 32, None if part == "train" else 1200)


class CharacterRNN(NextToken):
    """LSTM on the bytes of English; SGD with momentum and clipping."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return RecurrentNet(nn.LSTM, vocabulary=BYTE_VALUES, embedding=32, width=64)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def data(self, part: Part) -> Dataset[Any]:
        return english_bytes(part, 24, None if part == "train" else 1500)


class RecurrentLM(NextToken):
    """GRU on the bytes of Python source; AdamW."""

    global_batch_size = 64
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return RecurrentNet(nn.GRU, vocabulary=BYTE_VALUES, embedding=32, width=64)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return python_source(part, 24, None if part == "train" else 1200)


class GermanLM(NextToken):
    """Transformer on byte pairs of German; AdamW."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(vocabulary=800, places=32, width=48, layers=2, heads=2, causal=True)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return text_windows("german", part, places=32, vocabulary=800)


class MaskedLM(BenchTask):
    """Masked language model on English; AdamW."""

    global_batch_size = 16
    max_grad_norm: float | None = 1.0
    text: Text = "english"
    places, masked, vocabulary, width = 24, 4, 1000, 32

    def build_model(self) -> nn.Module:
        return TokenTransformer(
            vocabulary=self.vocabulary,
            places=self.places,
            width=self.width,
            layers=2,
            heads=2,
            causal=False,
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return masked_text(
            self.text,
            part,
            places=self.places,
            masked=self.masked,
            vocabulary=self.vocabulary,
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, places, targets = batch
        logits = model(ids, places)
        return cross_entropy(logits.flatten(0, 1), targets.flatten())


class MaskedSource(MaskedLM):
    """The same, on Python source."""

    text: Text = "source"


class MaskedGerman(MaskedLM):
    """A wider one, with twice the batch, on German help texts; Adam without clipping."""

    global_batch_size = 32
    max_grad_norm = None
    text: Text = "german"
    places, masked, vocabulary, width = 32, 5, 800, 48

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)


class MaskedHelp(MaskedLM):
    """One with few tokens and four times the batch, on English help texts; AdamW."""

    global_batch_size = 64
    text: Text = "help"
    places, masked, vocabulary, width = 40, 6, 400, 32

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
