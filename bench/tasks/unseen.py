"""Tasks that were made after the default: nothing in it was chosen by a run of one of them."""

from __future__ import annotations

import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits, make_classification, make_friedman2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset

from bench.tasks.fine_tuning import FineTunedImages, clothes
from bench.tasks.images import FullSizeImages, HalfSizeImages
from bench.tasks.kinds import BenchTask, Classification, NextToken, Part, Rows
from bench.tasks.networks import RecurrentNet, ResidualNet, TokenTransformer, VisionTransformer
from bench.tasks.tabular import Regression, network, table_parts
from bench.tasks.text_data import BYTE_VALUES, english_bytes, python_source


class DigitTransformer(Classification):
    """Vision Transformer on a thousand tiny images; AdamW."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return VisionTransformer(size=8, patch=2, width=32, layers=2, heads=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def data(self, part: Part) -> Dataset[Any]:
        digits = load_digits()
        rows: dict[Part, slice] = {
            "validation": slice(0, 400),
            "test": slice(400, 797),
            "train": slice(797, None),
        }
        images = torch.tensor(digits.images[rows[part]] / 8 - 1, dtype=torch.float32)
        return Rows(images[:, None], torch.tensor(digits.target[rows[part]]))


class ResidualNetBatch512(HalfSizeImages):
    """A narrow residual network, batches of 512; SGD with Nesterov's momentum."""

    global_batch_size = 512

    def build_model(self) -> nn.Module:
        return ResidualNet(width=4, blocks=2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=1e-4
        )


class Packages(Classification):
    """Which of eight packages of Python 48 bytes are from: a bag with BatchNorm; Adadelta."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.EmbeddingBag(BYTE_VALUES**2, 24),
            nn.BatchNorm1d(24),
            nn.Linear(24, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, len(_PACKAGES)),
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(model.parameters(), lr=1.0)

    def data(self, part: Part) -> Dataset[Any]:
        return _packages(part)


class SourceGRU(NextToken):
    """A GRU on the bytes of Python source, batches of 16; Adam."""

    global_batch_size = 16
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return RecurrentNet(nn.GRU, vocabulary=BYTE_VALUES, embedding=24, width=64)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return python_source(part, 20, None if part == "train" else 1200)


class LargeBatchLM(NextToken):
    """Transformer on the bytes of English, batches of 128; AdamW."""

    global_batch_size = 128
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(
            vocabulary=BYTE_VALUES, places=12, width=32, layers=2, heads=2, causal=True
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return english_bytes(part, 12, None if part == "train" else 1500)


class SmallTable(Classification):
    """350 rows of three classes, a tenth of the labels drawn anew: overfits; Adam."""

    global_batch_size = 32

    def build_model(self) -> nn.Module:
        return network(20, 64, 3)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return _small_table()[part]


class Reversal(BenchTask):
    """A Transformer turns eight digits round; AdamW. It learns nothing for long, then all."""

    global_batch_size = 64
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        return TokenTransformer(vocabulary=10, places=8, width=32, layers=2, heads=2, causal=False)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def data(self, part: Part) -> Dataset[Any]:
        seed = {"train": 0, "validation": 1, "test": 2}[part]
        count = 20_000 if part == "train" else 1000
        digits = torch.randint(10, (count, 8), generator=torch.Generator().manual_seed(seed))
        return Rows(digits)

    def loss(self, model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]).flatten(0, 1), batch[0].flip(1).flatten())


class Denoising(FullSizeImages):
    """An autoencoder of images with noise on them; Adamax."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(),
            nn.Linear(96, 784),
        )  # fmt: skip

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adamax(model.parameters(), lr=2e-3)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images = batch[0]
        return mse_loss(model(images + 0.5 * torch.randn_like(images)), images.flatten(1))


class Circuit(Regression):
    """Friedman's second function, of four numbers, batches of 256; NAdam."""

    global_batch_size = 256

    def build_model(self) -> nn.Module:
        return network(4, 48, 1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.NAdam(model.parameters(), lr=2e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return _circuit()[part]


class NewHead(FineTunedImages):
    """A trained classifier gets a new head for the other five kinds, which learns faster; SGD."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        model = super().build_model()
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        head.reset_parameters()
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        *body, head_weight, head_bias = model.parameters()
        groups = [{"params": body, "lr": 0.01}, {"params": [head_weight, head_bias], "lr": 0.1}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    def data(self, part: Part) -> Dataset[Any]:
        return clothes(part, range(5, 10), 3000 if part == "train" else None)


_PACKAGES = ("asyncio", "email", "ctypes", "json", "logging", "unittest", "xml", "http")


@lru_cache(maxsize=3)
def _packages(part: Part) -> Rows:
    """Return pairs of neighbouring bytes as one number each, shape (windows, 47), and packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    windows: list[Tensor] = []
    labels: list[Tensor] = []
    for label, name in enumerate(_PACKAGES):
        found = b"".join(path.read_bytes() for path in sorted((root / name).glob("*.py")))
        content = torch.frombuffer(bytearray(found), dtype=torch.uint8).long() % BYTE_VALUES
        rows = content.unfold(0, 48, 48)[:2500]
        place = torch.arange(len(rows)) // 4 % 10  # by blocks: neighbours are alike
        held = {"validation": place == 0, "test": place == 1, "train": place > 1}[part]
        windows.append(BYTE_VALUES * rows[held][:, :-1] + rows[held][:, 1:])
        labels.append(torch.full((int(held.sum()),), label))
    return Rows(torch.cat(windows), torch.cat(labels))


@lru_cache(maxsize=1)
def _small_table() -> dict[Part, Rows]:
    return table_parts(
        *make_classification(
            525,
            n_features=20,
            n_informative=8,
            n_classes=3,
            n_clusters_per_class=3,
            flip_y=0.1,
            random_state=3,
        )
    )


@lru_cache(maxsize=1)
def _circuit() -> dict[Part, Rows]:
    return table_parts(*make_friedman2(12_000, noise=60.0, random_state=0))
