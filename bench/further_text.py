"""Four of the further tasks: language models on other text than the benchmark's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from bench.quality_models import TokenTransformer
from bench.quality_tasks import MaskedLM, NextToken
from bench.text_windows import Text, text_windows
from ray_autolrs.workloads.small_images import Part


class MaskedSource(MaskedLM):
    """The benchmark's masked language model, on Python source; AdamW."""

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
    """A masked language model with few tokens and four times the batch; AdamW."""

    global_batch_size = 64
    text: Text = "help"
    places, masked, vocabulary, width = 40, 6, 400, 32

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)


class GermanLM(NextToken):
    """Byte pairs, each predicted from those before it; AdamW."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(vocabulary=800, places=32, width=48, layers=2, heads=2, causal=True)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return text_windows("german", part, places=32, vocabulary=800)
