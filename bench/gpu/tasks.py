"""What is trained on the GPU: a GPT on text, a ResNet-18 on images, and a small net for checks."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cross_entropy,
    interpolate,
    relu,
    scaled_dot_product_attention,
)
from torch.utils.data import Dataset

from bench.tasks.kinds import BenchTask, NextToken, Part, Rows
from ray_autolrs.task import Precision

HELD = 2048
"""Windows of text, or images, of the validation set."""


class Block(nn.Module):
    """A layer of a transformer that sees what was before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, width = x.shape
        split = self.qkv(self.norms[0](x)).view(batch, places, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, places, width))
        out: Tensor = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return out


class GPT(nn.Module):
    """A transformer over bytes."""

    def __init__(self, width: int, layers: int, heads: int, places: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)
        for weights in self.parameters():
            if weights.ndim == 2:
                nn.init.normal_(weights, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class Residual(nn.Module):
    """Two convolutions, and what they change added to what they saw."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.past: nn.Module = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            past = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.past = nn.Sequential(past, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(relu(self.norms[0](self.first(x)))))
        return relu(y + self.past(x))


def resnet(width: int, depth: int) -> nn.Module:
    """Return a ResNet of four levels for grey images; 64 wide and 2 deep is ResNet-18."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, width, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    before = width
    for level in range(4):
        for number in range(depth):
            now = width * 2**level
            layers.append(Residual(before, now, 2 if level and not number else 1))
            before = now
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    return nn.Sequential(*layers)


class GPTTask(NextToken):
    """Bytes of English; AdamW, bfloat16. 12 layers of 448 are 29 million parameters."""

    max_grad_norm = 1.0
    precision: Precision = "bf16"
    global_batch_size, eval_batch_size = 64, 64

    def __init__(self, data: Path, *, is_tiny: bool) -> None:
        self.folder, self.is_tiny = data, is_tiny
        self.places = 16 if is_tiny else 256
        if is_tiny:
            self.global_batch_size = self.eval_batch_size = 4

    def build_model(self) -> nn.Module:
        return GPT(16, 1, 2, self.places) if self.is_tiny else GPT(448, 12, 7, self.places)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return Rows(windows(self.folder, self.places + 1, 16 if self.is_tiny else HELD)[part])


@lru_cache(maxsize=2)
def windows(folder: Path, length: int, held: int) -> dict[Part, Tensor]:
    """Return the text's bytes cut into windows: the last ones validate."""
    text = gzip.decompress((folder / "text.gz").read_bytes())
    cut = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    cut = cut[: len(cut) // length * length].view(-1, length)
    return {"train": cut[: -2 * held], "validation": cut[-2 * held : -held], "test": cut[-held:]}


class ImageTask(BenchTask):
    """Fashion-MNIST at 64 x 64 pixels, moved and mirrored; SGD with momentum, bfloat16."""

    precision: Precision = "bf16"
    global_batch_size, eval_batch_size = 256, 512

    def __init__(self, data: Path, *, is_tiny: bool) -> None:
        self.folder, self.is_tiny = data, is_tiny
        if is_tiny:
            self.global_batch_size = self.eval_batch_size = 4

    def build_model(self) -> nn.Module:
        net = resnet(4, 1) if self.is_tiny else resnet(64, 2)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def data(self, part: Part) -> Dataset[Any]:
        held = 16 if self.is_tiny else HELD
        if part == "test":
            return Rows(*(values[:held] for values in fashion(self.folder, "t10k")))
        images, labels = fashion(self.folder, "train")
        kept = slice(-held, None) if part == "validation" else slice(None, -held)
        return Rows(images[kept], labels[kept])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        images = images.float().sub(73.0).div(90.0)
        if torch.is_grad_enabled():
            # One move for the batch, drawn on the CPU: a random number of the GPU's would be
            # waited for.
            down, right, mirrored = torch.randint(-2, 3, (3,)).tolist()
            images = torch.roll(images, (down, right), (2, 3))
            images = images.flip(3) if mirrored > 0 else images
        images = interpolate(images, 16 if self.is_tiny else 64, mode="bilinear")
        return cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)


@lru_cache(maxsize=2)
def fashion(folder: Path, prefix: Literal["train", "t10k"]) -> tuple[Tensor, Tensor]:
    """Return images of shape (count, 1, 28, 28) in bytes, and labels, of a folder's idx files."""

    def read(name: str, head: int) -> Tensor:
        packed = (folder / f"{prefix}-{name}-ubyte.gz").read_bytes()
        return torch.from_numpy(
            np.frombuffer(gzip.decompress(packed), np.uint8, offset=head).copy()
        )

    return read("images-idx3", 16).view(-1, 1, 28, 28), read("labels-idx1", 8).long()


class SmallTask(BenchTask):
    """For checks: a convolution and dropout on noise."""

    global_batch_size, eval_batch_size = 16, 16

    def __init__(self, precision: Precision = "fp32", *, is_compiled: str | None = None) -> None:
        self.precision = precision
        self.is_compiled = is_compiled

    def build_model(self) -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.is_compiled is None:
            return net  # type: ignore[no-any-return]
        return nn.Sequential(torch.compile(net, backend=self.is_compiled))  # type: ignore[arg-type]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        seed = {"train": 0, "validation": 1, "test": 2}[part]
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(64, 3, 8, 8, generator=generator)
        return Rows(images, (images.mean(dim=(1, 2, 3)) > 0).long())

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]).float(), batch[1])
