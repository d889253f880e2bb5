"""Text of the benchmarks' language models, as windows of tokens in memory.

English is Python's own help, source is its standard library, and German that of the translation's
folder. Text that comes with Python differs between its versions.
"""

from __future__ import annotations

import hashlib
import os
import pydoc_data.topics
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.tasks.kinds import Part, Rows
from ray_autolrs.workloads.translation.parallel_text import UNKNOWN_ID, train_bpe

TRANSLATION_FOLDER = "RAY_AUTOLRS_PARALLEL_TEXT"
"""Environment variable: folder of ``train.en``, ``train.de`` and likewise ``val`` and ``test``,
as :mod:`ray_autolrs.workloads.translation.libreoffice_help` writes them."""

BYTE_VALUES = 128
"""Tokens of the byte models: Python's own text is nearly all ASCII; other bytes become 0."""

Text = Literal["english", "source", "german", "help"]
"""``"german"`` and ``"help"`` are the two sides of the translation's training text."""

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
_MOST_SOURCE_BYTES = 6_000_000


class MaskedWindows(Rows):
    """Windows of tokens, of which ``masked`` places each are drawn anew at every reading.

    A batch is (ids with the mask put in, places, the ids that stood there).
    """

    def __init__(self, windows: Tensor, masked: int, mask_id: int) -> None:
        super().__init__(windows)
        self._masked = masked
        self._mask_id = mask_id

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        ids = self.tensors[0][torch.tensor(indices)].long()
        places = torch.rand(ids.shape).argsort(dim=1)[:, : self._masked]
        targets = ids.gather(1, places)
        return ids.scatter(1, places, self._mask_id), places, targets


@lru_cache(maxsize=3)
def python_source(part: Part, places: int, count: int | None = None) -> Rows:
    """Return windows of ``places + 1`` bytes of the standard library's source, as uint8."""
    return _windows(_source_tokens()[part], places, count)


@lru_cache(maxsize=3)
def english_bytes(part: Part, places: int, count: int | None = None) -> Rows:
    """Return windows of ``places + 1`` bytes of English, as uint8."""
    return _windows(_bytes_as_tokens("\n\n".join(_english()[part]).encode()), places, count)


@lru_cache(maxsize=6)
def masked_text(
    text: Text, part: Part, *, places: int, masked: int, vocabulary: int
) -> MaskedWindows:
    """Return windows of ``places`` byte pairs of a text, for masked language modelling.

    Raises:
        ValueError: the translation's text is asked for, and the environment names no folder.
    """
    tokens = _byte_pairs(text, vocabulary)[part]
    # Byte pairs know every character, so that the token for unknown ones is free to be the mask.
    return MaskedWindows(tokens.unfold(0, places, places).contiguous(), masked, UNKNOWN_ID)


@lru_cache(maxsize=6)
def text_windows(text: Text, part: Part, *, places: int, vocabulary: int) -> Rows:
    """Return windows of ``places + 1`` byte pairs of a text, to predict each from those before it.

    Raises:
        ValueError: as :func:`masked_text`.
    """
    return _windows(_byte_pairs(text, vocabulary)[part], places)


def take_parallel_folder(folder: Path | None) -> None:
    """Let this process and those that it starts read a folder of aligned text, if one is given."""
    if folder is not None:
        os.environ[TRANSLATION_FOLDER] = str(folder.absolute())


def parallel_folder() -> Path:
    """Return the folder of aligned text.

    Raises:
        ValueError: the environment names none.
    """
    named = os.environ.get(TRANSLATION_FOLDER)
    if not named:
        raise ValueError(
            f"{TRANSLATION_FOLDER} is not set: it must name the folder of aligned text that "
            "`python -m ray_autolrs.workloads.translation.libreoffice_help` writes; its help "
            "tells more"
        )
    return Path(named)


def _windows(tokens: Tensor, places: int, count: int | None = None) -> Rows:
    """Return windows that share only the token that is one's last target and the next's first."""
    windows = tokens.unfold(0, places + 1, places)
    if count is not None:  # evenly over the text, not only from its beginning
        windows = windows[:: max(1, len(windows) // count)][:count]
    return Rows(windows.contiguous())


def _bytes_as_tokens(content: bytes) -> Tensor:
    values = np.frombuffer(content, np.uint8)
    return torch.from_numpy(np.where(values < BYTE_VALUES, values, 0).astype(np.uint8))


@lru_cache(maxsize=3)
def _byte_pairs(text: Text, vocabulary: int) -> dict[str, Tensor]:
    # Not WordPieces, whose training gives another vocabulary in every process: runs that are
    # compared must read the same tokens.
    texts = _READERS[text]()
    tokenizer = train_bpe(((piece, "") for piece in texts["train"]), vocabulary)
    assert tokenizer.get_vocab_size() == vocabulary, tokenizer.get_vocab_size()
    return {
        part: torch.tensor([token for one in tokenizer.encode_batch(pieces) for token in one.ids])
        for part, pieces in texts.items()
    }


@lru_cache(maxsize=1)
def _source_tokens() -> dict[str, Tensor]:
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


def _source_pieces() -> dict[str, list[str]]:
    """Return the first megabyte of the standard library's source, and an eighth of it to judge."""
    found: dict[str, list[str]] = {}
    for part, tokens in _source_tokens().items():
        characters = bytes(tokens.numpy()).decode("ascii")
        size = min(len(characters), 1_000_000 if part == "train" else 120_000)
        found[part] = [characters[at : at + 4000] for at in range(0, size, 4000)]
    return found


@lru_cache(maxsize=1)
def _english() -> dict[str, list[str]]:
    """Return Python's help topics by part."""
    topics = pydoc_data.topics.topics
    # A topic can be long, so that parts are cut by paragraph group rather than by topic.
    paragraphs = [text for name in sorted(topics) for text in topics[name].split("\n\n")]
    return _parted(["\n\n".join(paragraphs[at : at + 8]) for at in range(0, len(paragraphs), 8)])


def _side(language: str) -> dict[str, list[str]]:
    """Return a side of the translation's training text, cut anew."""
    lines = (parallel_folder() / f"train.{language}").read_text(encoding="utf-8").splitlines()
    return _parted(["\n".join(lines[at : at + 20]) for at in range(0, len(lines), 20)])


def _parted(texts: Sequence[str]) -> dict[str, list[str]]:
    """Cut texts into parts, a twelfth each for test and validation."""
    order = np.random.default_rng(0).permutation(len(texts))
    held = max(1, len(texts) // 12)
    places = {
        "test": order[:held],
        "validation": order[held : 2 * held],
        "train": order[2 * held :],
    }
    return {part: [texts[place] for place in sorted(rows)] for part, rows in places.items()}


_READERS: Mapping[Text, Callable[[], dict[str, list[str]]]] = MappingProxyType(
    {
        "english": _english,
        "source": _source_pieces,
        "german": partial(_side, "de"),
        "help": partial(_side, "en"),
    }
)
