"""Small images that fit in memory: Fashion-MNIST and CIFAR-10, with fast augmentation.

The whole batch is cut, flipped and scaled at once, because one image at a time takes longer
than a small network's step.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

Part = Literal["train", "validation", "test"]

VALIDATION_IMAGES = 5000
"""Images at the end of the training file that are kept for validation. Ours: the test file is
for the last measurement only, because AutoLRS searches on the validation loss."""

FASHION_DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
"""Where Debian's ``dataset-fashion-mnist`` puts its files."""


class SmallImages(Dataset[Any]):
    """Images in memory; a batch is made at once.

    Args:
        images: uint8, shape (images, channels, height, width).
        labels: int64, shape (images,).
        pad: pixels that an image is padded by, with zeros, before a random cut of its own size
            and a random flip; 0 leaves the images as they are.

    Example:
        >>> images = SmallImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3))
        >>> batch, labels = images.__getitems__([2, 0])
        >>> batch.shape, batch.dtype, labels
        (torch.Size([2, 1, 4, 4]), torch.float32, tensor([2, 0]))
    """

    def __init__(self, images: Tensor, labels: Tensor, *, pad: int = 0) -> None:
        assert images.ndim == 4
        assert len(images) == len(labels)
        self.images = images
        self.labels = labels
        self._pad = pad
        self._padded = torch.nn.functional.pad(images, (pad, pad, pad, pad)) if pad else images
        size = images.shape[-1]
        self._cut = torch.arange(size)
        # Over a part of the images: means of 8-bit values need no more.
        sample = images[:: max(1, len(images) // 2000)].float()
        self.mean = sample.mean(dim=(0, 2, 3), keepdim=True)
        self.std = sample.std(dim=(0, 2, 3), keepdim=True).clamp_min(1.0)

    def normalised_as(self, other: SmallImages) -> SmallImages:
        """Take another set's mean and standard deviation, and return this set."""
        self.mean, self.std = other.mean, other.std
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images of shape (batch, channels, height, width), normalised, and labels."""
        rows = torch.tensor(indices)
        images = self._padded[rows]
        if self._pad:
            images = self._augmented(images)
        return images.float().sub_(self.mean).div_(self.std), self.labels[rows]

    def _augmented(self, images: Tensor) -> Tensor:
        """Return random cuts, half of them mirrored; drawn from PyTorch's global generator."""
        count, channels, height, width = images.shape
        size = len(self._cut)
        top, left = torch.randint(0, 2 * self._pad + 1, (2, count, 1))
        columns = self._cut.expand(count, -1)
        mirrored = torch.rand(count, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns) + left
        # One flat index for each pixel: much faster than an index for each dimension.
        places = ((self._cut + top) * width)[:, :, None] + columns[:, None, :]
        places = places.view(count, 1, -1).expand(-1, channels, -1)
        cuts = images.view(count, channels, height * width).gather(2, places)
        return cuts.view(count, channels, size, size)


def fashion_mnist(folder: Path, part: Part) -> SmallImages:
    """Return a part of Fashion-MNIST from a folder of its four idx files, plain or ``.gz``.

    Raises:
        ValueError: a file is missing or malformed, or images and labels do not agree.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder: expected Fashion-MNIST's four idx files in it, as Debian's "
            f"package dataset-fashion-mnist puts them into {FASHION_DEBIAN_FOLDER}"
        )
    prefix = "t10k" if part == "test" else "train"
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: {prefix}-images holds {len(images)} images and {prefix}-labels "
            f"{len(labels)} labels: expected as many of one as of the other"
        )
    return _part(images.unsqueeze(1), labels, part, folder, pad=2)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the bytes of an idx file; where there is none, of ``path`` with ``.gz`` behind.

    Raises:
        ValueError: neither file exists, or it is not such an array.
    """
    try:
        if path.exists():
            values: Tensor = read_sn3_pascalvincent_tensor(str(path))
        else:
            with tempfile.NamedTemporaryFile() as plain:
                plain.write(gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()))
                plain.flush()
                values = read_sn3_pascalvincent_tensor(plain.name)
        if (values.dtype, values.ndim) != (torch.uint8, dimensions):
            raise ValueError(f"it holds {values.dtype} in {values.ndim} dimensions")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, and so is {path.name}.gz: expected one") from error
    except (OSError, EOFError, zlib.error, AssertionError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path} or its .gz cannot be read: expected an idx file of unsigned bytes in "
            f"{dimensions} dimensions, {error!r}"
        ) from error
    return values


def cifar10(folder: Path, part: Part) -> SmallImages:
    """Return a part of CIFAR-10 from the folder that torchvision has downloaded it to.

    Raises:
        ValueError: torchvision does not find it there.
    """
    try:
        source = CIFAR10(str(folder), train=part != "test", download=False)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{folder} lacks CIFAR-10: expected its folder cifar-10-batches-py there, as "
            f"torchvision.datasets.CIFAR10(root, download=True) makes it ({error})"
        ) from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return _part(images, torch.tensor(source.targets), part, folder, pad=4)


def _part(images: Tensor, labels: Tensor, part: Part, folder: Path, *, pad: int) -> SmallImages:
    """Cut the validation images from the training file's end."""
    labels = labels.long()
    if part == "test":
        return SmallImages(images, labels)
    held = min(VALIDATION_IMAGES, len(images) // 10)
    if held == 0:
        raise ValueError(f"{folder} has {len(images)} training images: expected at least 10")
    if part == "train":
        return SmallImages(images[:-held], labels[:-held], pad=pad)
    return SmallImages(images[-held:], labels[-held:])
