"""Further tasks on images: other optimizers, very large batches, wrong labels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from bench.tasks.image_data import flat_fashion
from bench.tasks.images import ConvNet, DenseNet, FullSizeImages, HalfSizeImages, PlainConvNet
from bench.tasks.kinds import Part, Rows
from bench.tasks.networks import Perceptron, ResidualNet, VisionTransformer


class ConvNetVeryLargeBatch(ConvNet):
    """A thin network on images of quarter size, batches of 1024; SGD with Nesterov's momentum."""

    global_batch_size = 1024

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(2), ResidualNet(width=6, blocks=1))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        )


class AdadeltaNet(FullSizeImages):
    """Two hidden layers with BatchNorm; Adadelta."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (784, 96):
            layers += [nn.Linear(inputs, 96), nn.BatchNorm1d(96), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(96, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(model.parameters(), lr=1.0)


class MuonNet(FullSizeImages):
    """Matrices alone, without biases, as Muon wants them."""

    global_batch_size = 128

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (784, 96):
            layers += [nn.Linear(inputs, 96, bias=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(96, 10, bias=False))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Muon(model.parameters(), lr=0.02, momentum=0.95, weight_decay=0.01)


class AdagradConvNet(PlainConvNet):
    """Two convolutions; Adagrad."""

    global_batch_size = 64

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(model.parameters(), lr=1e-2)


class WrongLabels(DenseNet):
    """Three of ten training labels are drawn anew; AdamW."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=128, dropout=0.0)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        return _with_wrong_labels() if part == "train" else flat_fashion(part)


class PatchTransformerLargeBatch(HalfSizeImages):
    """Vision Transformer of one layer on half-size images, batches of 128; AdamW."""

    global_batch_size = 128
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return VisionTransformer(size=14, patch=7, width=32, layers=1, heads=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)


@lru_cache(maxsize=1)
def _with_wrong_labels() -> Rows:
    images, labels = flat_fashion("train").tensors
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < 0.3
    drawn = torch.randint(10, labels.shape, generator=generator, dtype=labels.dtype)
    return Rows(images, torch.where(wrong, drawn, labels))
