"""Tasks that begin with a trained model: all of it is trained on, or a few new weights are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bench.tasks.image_data import flat_fashion
from bench.tasks.images import FullSizeImages
from bench.tasks.kinds import NextToken, Part, Rows
from bench.tasks.networks import Perceptron, TokenTransformer
from bench.tasks.pretraining import pretrained
from bench.tasks.text_data import BYTE_VALUES, english_bytes, python_source

_STEPS = 1500
"""Of a pre-training."""


class SourceLM(NextToken):
    """What the language models begin with: a Transformer on the bytes of Python source."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return TokenTransformer(
            vocabulary=BYTE_VALUES, places=32, width=48, layers=2, heads=2, causal=True
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return python_source(part, 32, None if part == "train" else 1200)


class FineTunedLM(NextToken):
    """The model of source goes on with English, all of it; AdamW."""

    global_batch_size = 16
    max_grad_norm: float | None = 1.0
    pretraining_steps = _STEPS

    def build_model(self) -> nn.Module:
        model = SourceLM().build_model()
        state = pretrained(SourceLM(), steps=self.pretraining_steps, seed=0, version=1)
        model.load_state_dict(state)
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return english_bytes(part, 24, None if part == "train" else 1200)


class LowRankLM(FineTunedLM):
    """Only low-rank adapters of its linear layers are trained; AdamW."""

    rank = 4

    def build_model(self) -> nn.Module:
        model = super().build_model().requires_grad_(False)
        _adapt(model, self.rank)
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)


class LowRank(nn.Module):
    """A linear layer beside which a product of two thin matrices is trained (Hu et al. 2021).

    Args:
        base: the layer, left as it is.
        rank: of the product, which begins at zero.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, features: Tensor) -> Tensor:
        """Return the layer's output and the product's."""
        added: Tensor = self.base(features) + features @ self.down.T @ self.up.T
        return added


def _adapt(module: nn.Module, rank: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, LowRank(child, rank))
        else:
            _adapt(child, rank)


class FirstClasses(FullSizeImages):
    """What the image classifier begins with: five of the ten kinds of clothes."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=128, dropout=0.0)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return clothes(part, range(5))


class FineTunedImages(FullSizeImages):
    """The classifier goes on with the other five kinds, 1500 images of them; SGD with momentum."""

    global_batch_size = 32
    pretraining_steps = _STEPS

    def build_model(self) -> nn.Module:
        model = FirstClasses().build_model()
        state = pretrained(FirstClasses(), steps=self.pretraining_steps, seed=0, version=1)
        model.load_state_dict(state)
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)

    def data(self, part: Part) -> Dataset[Any]:
        return clothes(part, range(5, 10), 1500 if part == "train" else None)


def clothes(part: Part, classes: range, count: int | None = None) -> Rows:
    """Return images of some of the ten kinds of clothes, and their labels."""
    images, labels = flat_fashion(part).tensors
    chosen = (labels >= classes.start) & (labels < classes.stop)
    return Rows(images[chosen][:count], labels[chosen][:count])
