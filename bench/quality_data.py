"""Data of the quality benchmark's tasks: tensors in memory, built once in a process.

Everything is real and comes with Python, with a Debian package or, for the translation, from the
folder that the environment names. Text that comes with Python differs between its versions.
"""

from __future__ import annotations

import hashlib
import os
import pydoc_data.topics
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from ray_autolrs.workloads.documents import read_documents
from ray_autolrs.workloads.parallel_text import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    read_pairs,
    train_bpe,
)
from ray_autolrs.workloads.small_images import FASHION_DEBIAN_FOLDER, Part, fashion_mnist

TRANSLATION_FOLDER = "RAY_AUTOLRS_PARALLEL_TEXT"
"""Environment variable: folder of ``train.en``, ``train.de`` and likewise ``val`` and ``test``,
as :mod:`ray_autolrs.workloads.libreoffice_help` writes them."""

ENGLISH_FILE = "RAY_AUTOLRS_ENGLISH_TEXT"
"""Environment variable: a text file to use in place of Python's own help texts."""

BYTE_VALUES = 128
"""Tokens of the byte models: Python's own text is nearly all ASCII; other bytes become 0."""

_Pair = tuple[list[int], list[int]]

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
_MOST_SOURCE_BYTES = 6_000_000


class Rows(Dataset[Any]):
    """Equally long tensors; a batch is a tuple of their rows, taken at once.

    >>> rows = Rows(torch.arange(6).view(3, 2), torch.arange(3))
    >>> [part.tolist() for part in rows.__getitems__([2, 0])]
    [[[4, 5], [0, 1]], [2, 0]]
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = torch.tensor(indices)
        return tuple(tensor[rows] for tensor in self.tensors)


class HalfSizeFashion(Rows):
    """Fashion-MNIST, each two by two pixels averaged, normalised; moved and mirrored in training.

    Args:
        part: ``"train"`` is augmented.
        count: images, or None for all.
    """

    def __init__(self, part: Part, count: int | None = None) -> None:
        images, labels = _half_size_fashion(part)
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


@lru_cache(maxsize=3)
def flat_fashion(part: Part, count: int | None = None) -> Rows:
    """Return ``count`` images of Fashion-MNIST at full size, normalised, not augmented."""
    source = fashion_mnist(Path(FASHION_DEBIAN_FOLDER), part)
    return Rows((source.images[:count].float() - 73.0) / 90.0, source.labels[:count])


def _bytes_as_tokens(content: bytes) -> Tensor:
    values = np.frombuffer(content, np.uint8)
    return torch.from_numpy(np.where(values < BYTE_VALUES, values, 0).astype(np.uint8))


@lru_cache(maxsize=1)
def source_tokens() -> dict[str, Tensor]:
    """Return the standard library's source by part, cut by file."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS & {*path.relative_to(root).parts}
    ]
    contents: dict[str, list[bytes]] = {"train": [], "validation": [], "test": []}
    size = 0
    # In an order that depends on the names alone, and mixes the packages.
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        place = hashlib.sha256(name.encode()).digest()[0]
        part = "test" if place < 16 else "validation" if place < 32 else "train"
        content = (root / name).read_bytes()
        contents[part].append(content)
        size += len(content)
        if size > _MOST_SOURCE_BYTES:
            break
    return {part: _bytes_as_tokens(b"".join(found)) for part, found in contents.items()}


def token_windows(tokens: Tensor, places: int, count: int | None = None) -> Rows:
    """Return windows that share only the token that is one's last target and the next's first."""
    windows = tokens.unfold(0, places + 1, places)
    if count is not None:  # evenly over the text, not only from its beginning
        windows = windows[:: max(1, len(windows) // count)][:count]
    return Rows(windows.contiguous())


@lru_cache(maxsize=3)
def python_source(part: Part, places: int, count: int | None = None) -> Rows:
    """Return windows of ``places + 1`` bytes of the standard library's source, as uint8."""
    return token_windows(source_tokens()[part], places, count)


@lru_cache(maxsize=1)
def english_texts() -> dict[str, list[str]]:
    """Return texts by part: Python's help topics, or the blocks of the file that is named."""
    named = os.environ.get(ENGLISH_FILE)
    if named:
        texts = [" ".join(document) for document in read_documents(Path(named))]
    else:
        topics = pydoc_data.topics.topics
        # A topic can be long, so that parts are cut by paragraph group rather than by topic.
        paragraphs = [text for name in sorted(topics) for text in topics[name].split("\n\n")]
        texts = ["\n\n".join(paragraphs[at : at + 8]) for at in range(0, len(paragraphs), 8)]
    return parted(texts)


def parted(texts: Sequence[str]) -> dict[str, list[str]]:
    """Cut texts into parts, a twelfth each for test and validation."""
    order = np.random.default_rng(0).permutation(len(texts))
    held = max(1, len(texts) // 12)
    places = {
        "test": order[:held],
        "validation": order[held : 2 * held],
        "train": order[2 * held :],
    }
    return {part: [texts[place] for place in sorted(rows)] for part, rows in places.items()}


@lru_cache(maxsize=3)
def english_bytes(part: Part, places: int, count: int | None = None) -> Rows:
    """Return windows of ``places + 1`` bytes of English, as uint8."""
    return token_windows(
        _bytes_as_tokens("\n\n".join(english_texts()[part]).encode()), places, count
    )


class PairRows(Rows):
    """Sentence pairs, padded to the longest in the batch: (source, shifted target, target)."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        sources, targets = super().__getitems__(indices)
        sources = sources[:, : int((sources != PAD_ID).sum(dim=1).max())]
        targets = targets[:, : int((targets != PAD_ID).sum(dim=1).max())]
        ended = targets.masked_fill(targets == EOS_ID, PAD_ID)[:, :-1]
        shifted = torch.nn.functional.pad(ended, (1, 0), value=BOS_ID)
        return sources, shifted, targets


@lru_cache(maxsize=3)
def sentence_pairs(part: Part, *, max_length: int, vocabulary: int) -> PairRows:
    """Return the pairs of at most ``max_length`` byte pairs on both sides.

    Raises:
        ValueError: the environment names no folder, or a file is missing there.
    """
    return _sentence_pairs(max_length, vocabulary)[part]


def parallel_folder() -> Path:
    """Return the folder of aligned text.

    Raises:
        ValueError: the environment names none.
    """
    named = os.environ.get(TRANSLATION_FOLDER)
    if not named:
        raise ValueError(
            f"{TRANSLATION_FOLDER} is not set: parallel text is needed, the folder that `python -m "
            "ray_autolrs.workloads.libreoffice_help` writes; its help says how to get the text"
        )
    return Path(named)


@lru_cache(maxsize=1)
def _sentence_pairs(max_length: int, vocabulary: int) -> dict[str, PairRows]:
    folder = parallel_folder()
    files = {
        part: (folder / f"{name}.en", folder / f"{name}.de")
        for part, name in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    tokenizer = train_bpe(read_pairs(*files["train"]), vocabulary)
    pairs = {part: _encoded(paths, tokenizer, max_length) for part, paths in files.items()}
    # Few pairs are as short as this. Pages follow each other, so a cut parts one page at most.
    train, tenth = pairs["train"], len(pairs["train"]) // 10
    pairs["validation"] += train[-tenth:]
    pairs["test"] += train[-2 * tenth : -tenth]
    pairs["train"] = train[: -2 * tenth]
    return {part: PairRows(*_padded(rows, max_length)) for part, rows in pairs.items()}


def _encoded(files: tuple[Path, Path], tokenizer: Tokenizer, max_length: int) -> list[_Pair]:
    texts = list(read_pairs(*files))
    sources, targets = (
        [[*one.ids, EOS_ID] for one in tokenizer.encode_batch([text[side] for text in texts])]
        for side in (0, 1)
    )
    encoded = zip(sources, targets, strict=True)
    return [pair for pair in encoded if max(map(len, pair)) <= max_length]


def _padded(pairs: list[_Pair], max_length: int) -> tuple[Tensor, Tensor]:
    sides = torch.full((2, len(pairs), max_length), PAD_ID)
    for row, pair in enumerate(pairs):
        for side, ids in enumerate(pair):
            sides[side, row, : len(ids)] = torch.tensor(ids)
    return sides[0], sides[1]
