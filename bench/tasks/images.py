"""The benchmarks' tasks on images. Optimizer settings are the usual ones, tuned by nobody."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

from bench.tasks.image_data import HalfSizeFashion, flat_fashion
from bench.tasks.kinds import Classification, Part, Rows
from bench.tasks.networks import Perceptron, ResidualNet, VisionTransformer


class HalfSizeImages(Classification):
    """Fashion-MNIST at half size, augmented."""

    def data(self, part: Part) -> Dataset[Any]:
        return HalfSizeFashion(part)


class FullSizeImages(Classification):
    """Fashion-MNIST."""

    def data(self, part: Part) -> Dataset[Any]:
        return flat_fashion(part)


class ConvNet(HalfSizeImages):
    """Residual network; SGD with momentum."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return ResidualNet(width=8, blocks=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


class ConvNetLargeBatch(ConvNet):
    """The same kind of network, smaller, with eight times the batch."""

    global_batch_size = 256

    def build_model(self) -> nn.Module:
        return ResidualNet(width=8, blocks=1)


class ConvNetAdamW(ConvNet):
    """The same network, with AdamW and twice the batch."""

    global_batch_size = 64

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)


class PlainConvNet(HalfSizeImages):
    """Two convolutions; RMSprop."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        first, second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3)


class DenseNet(FullSizeImages):
    """Two hidden layers; Adam."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=128, dropout=0.1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)


class PatchTransformer(FullSizeImages):
    """Vision Transformer; AdamW."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return VisionTransformer(size=28, patch=7, width=32, layers=2, heads=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)


class Autoencoder(FullSizeImages):
    """Squared error, which has little gradient noise; Adam."""

    global_batch_size = 128

    def build_model(self) -> nn.Module:
        encoder = (nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 16))
        return nn.Sequential(*encoder, nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 784))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(model(batch[0]), batch[0].flatten(1))


class FewImages(FullSizeImages):
    """A thousand images, read 74 times; AdamW."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=128, dropout=0.3)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return flat_fashion(part, 1000)


class LargeBatch(FullSizeImages):
    """Twenty epochs in batches of 512, no normalisation; SGD with Nesterov's momentum."""

    global_batch_size = 512

    def build_model(self) -> nn.Module:
        return Perceptron(inputs=784, width=96, dropout=0.1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        )


class SigmoidNet(FullSizeImages):
    """Three hidden layers of sigmoids, which begin on a plateau; SGD with momentum."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (784, 100, 100):
            layers += [nn.Linear(inputs, 100), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(100, 10))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Digits(Classification):
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
