"""Windows of byte pairs, for language models: of masked ones, some are to be guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from bench.quality_data import (
    Rows,
    english_texts,
    parallel_folder,
    parted,
    source_tokens,
    token_windows,
)
from ray_autolrs.workloads.parallel_text import UNKNOWN_ID, train_bpe
from ray_autolrs.workloads.small_images import Part

Text = Literal["english", "source", "german", "help"]
"""``"german"`` and ``"help"`` are the two sides of the translation's training text."""


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
    return token_windows(_byte_pairs(text, vocabulary)[part], places)


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


def _source_pieces() -> dict[str, list[str]]:
    """Return the first megabyte of the standard library's source, and an eighth of it to judge."""
    found: dict[str, list[str]] = {}
    for part, tokens in source_tokens().items():
        characters = bytes(tokens.numpy()).decode("ascii")
        size = min(len(characters), 1_000_000 if part == "train" else 120_000)
        found[part] = [characters[at : at + 4000] for at in range(0, size, 4000)]
    return found


def _side(language: str) -> dict[str, list[str]]:
    """Return a side of the translation's training text, cut anew."""
    lines = (parallel_folder() / f"train.{language}").read_text(encoding="utf-8").splitlines()
    return parted(["\n".join(lines[at : at + 20]) for at in range(0, len(lines), 20)])


_READERS: Mapping[Text, Callable[[], dict[str, list[str]]]] = MappingProxyType(
    {
        "english": english_texts,
        "source": _source_pieces,
        "german": partial(_side, "de"),
        "help": partial(_side, "en"),
    }
)
