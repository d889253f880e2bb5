"""Images of the benchmarks' tasks: tensors in memory, built once in a process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from bench.tasks.kinds import Part, Rows
from ray_autolrs.workloads.images.in_memory import FASHION_DEBIAN_FOLDER, fashion_mnist

HELD_IMAGES = 2500
"""Images that are read of the validation and of the test set."""


class HalfSizeFashion(Rows):
    """Fashion-MNIST, each two by two pixels averaged, normalised; moved and mirrored in training.

    Images have the shape (1, 14, 14); ``"train"`` is augmented.
    """

    def __init__(self, part: Part) -> None:
        images, labels = _half_size_fashion(part)
        count = None if part == "train" else HELD_IMAGES
        super().__init__(images[:count], labels[:count])
        self._is_augmented = part == "train"

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        images, labels = super().__getitems__(indices)
        if not self._is_augmented:
            return images, labels
        # One shift for the batch: an image of its own each would take longer than the step.
        down, right = torch.randint(-1, 2, (2,)).tolist()
        images = torch.roll(images, (down, right), (2, 3))
        mirrored = torch.rand(len(labels)) < 0.5
        images[mirrored] = images[mirrored].flip(3)
        return images, labels


@lru_cache(maxsize=3)
def _half_size_fashion(part: Part) -> tuple[Tensor, Tensor]:
    source = fashion_mnist(Path(FASHION_DEBIAN_FOLDER), part)
    images = avg_pool2d(source.images.float(), 2)
    # The same constants for all parts; they are about those of the training images.
    return (images - 72.0) / 82.0, source.labels


@lru_cache(maxsize=4)
def flat_fashion(part: Part, most_training_images: int | None = None) -> Rows:
    """Return images of Fashion-MNIST, (1, 28, 28), normalised, not augmented, and labels."""
    count = most_training_images if part == "train" else HELD_IMAGES
    source = fashion_mnist(Path(FASHION_DEBIAN_FOLDER), part)
    return Rows((source.images[:count].float() - 73.0) / 90.0, source.labels[:count])
