"""Aligned text files as batches of sentence pairs of similar length.

A sample of the data set is a whole batch, here called a bucket: pairs whose lengths are alike,
as many as fit a number of tokens. The epoch's order is one of buckets, so batches stay a pure
function of their step. Which pairs share a bucket is drawn once for a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tokenizers import Tokenizer
from tokenizers.implementations.byte_level_bpe import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
SPECIAL = (PAD, UNKNOWN, BOS, EOS)
PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID = range(4)

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Array, Array]
"""(source ids, target ids), both with the end's token and without the beginning's."""

_ENCODE_BATCH = 4096


def read_pairs(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of two aligned files, without those that are empty on one side.

    Raises:
        ValueError: a file is missing or not UTF-8, or one has more lines than the other.
    """
    for path, other in ((source, target), (target, source)):
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: expected a text file with one sentence a line, aligned with "
                f"{other.name}"
            )
    with source.open(encoding="utf-8") as left, target.open(encoding="utf-8") as right:
        number = 0
        while True:
            try:
                one, two = left.readline(), right.readline()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{source} or {target.name} cannot be read after line {number}: expected text "
                    f"in UTF-8, {error}"
                ) from error
            number += 1
            if not one and not two:
                return
            if not one or not two:
                shorter, longer = (source, target) if not one else (target, source)
                raise ValueError(
                    f"{shorter} ends after {number - 1} lines and {longer.name} does not: expected "
                    "as many lines in both, each the translation of the other"
                )
            if one.strip() and two.strip():
                yield one.strip(), two.strip()


def train_bpe(pairs: Iterator[tuple[str, str]], vocab_size: int) -> Tokenizer:
    """Return one tokenizer of byte pairs for both languages, which loses no character."""
    byte_pairs = ByteLevelBPETokenizer(add_prefix_space=True)
    byte_pairs.train_from_iterator(
        chain.from_iterable(pairs),
        vocab_size=vocab_size,
        min_frequency=0,
        show_progress=False,
        special_tokens=[*SPECIAL],
    )
    return Tokenizer.from_str(byte_pairs.to_str())


class Buckets(Dataset[Any]):
    """Buckets of sentence pairs, in memory: four bytes for each token.

    Args:
        pairs: of sentences.
        tokenizer: gives the ids.
        bucket_tokens: most tokens of a bucket on either side. A bucket ends when the next pair
            would not fit, so buckets hold nearly the same number of tokens, and the mean of their
            means is nearly the mean over all tokens.
        max_length: tokens, the end's included, above which a pair is left out, on either side.
        seed: draws which pairs of the same length share a bucket.

    Raises:
        ValueError: no pair is left.
    """

    def __init__(
        self,
        pairs: Iterator[tuple[str, str]],
        tokenizer: Tokenizer,
        *,
        bucket_tokens: int,
        max_length: int,
        seed: int = 0,
    ) -> None:
        assert bucket_tokens >= max_length
        sides: tuple[list[Array], list[Array]] = ([], [])
        while batch := list(islice(pairs, _ENCODE_BATCH)):
            for side, encoded in enumerate(sides):
                texts = [pair[side] for pair in batch]
                encoded += [
                    np.array([*one.ids, EOS_ID], np.int32) for one in tokenizer.encode_batch(texts)
                ]
        lengths = np.array([[*map(len, side)] for side in sides], np.int64).reshape(2, -1)
        fitting = np.flatnonzero(lengths.max(axis=0) <= max_length)
        if len(fitting) == 0:
            raise ValueError(
                f"of {lengths.shape[1]} sentence pairs none has at most max_length={max_length} "
                "tokens on both sides; give other text or a larger max_length"
            )
        self._sides = sides
        shuffled = np.random.default_rng(seed).permutation(fitting)
        # By target length, then by source length: both paddings stay small.
        order = shuffled[np.lexsort((lengths[0, shuffled], lengths[1, shuffled]))]
        self._buckets = _cut(order, lengths, bucket_tokens)

    def __len__(self) -> int:
        return len(self._buckets)

    def __getitem__(self, index: int) -> list[Pair]:
        source, target = self._sides
        return [(source[place], target[place]) for place in self._buckets[index]]


def _cut(order: Array, lengths: Array, bucket_tokens: int) -> list[Array]:
    """Cut an order of pairs where the next one would exceed the tokens on one side."""
    buckets: list[Array] = []
    first = 0
    tokens = np.zeros(2, np.int64)
    for place, pair in enumerate(order):
        if place > first and (tokens + lengths[:, pair]).max() > bucket_tokens:
            buckets.append(order[first:place])
            first = place
            tokens[:] = 0
        tokens += lengths[:, pair]
    buckets.append(order[first:])
    return buckets


def collate_bucket(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pad pairs to int64 tensors of shape (pairs, longest).

    Returns:
        ``source``, ``target`` (what the decoder should say) and ``shifted`` (what it has said
        before: the target behind the beginning's token).

    >>> batch = collate_bucket([(np.array([7, 3]), np.array([8, 9, 3])), (np.array([3]),) * 2])
    >>> {name: ids.tolist() for name, ids in batch.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'source': [[7, 3], [3, 0]], 'target': [[8, 9, 3], [3, 0, 0]],
     'shifted': [[2, 8, 9], [2, 3, 0]]}
    """
    source, target = (padded([pair[side] for pair in pairs]) for side in (0, 1))
    beginning = torch.full((len(pairs), 1), BOS_ID)
    return {
        "source": source,
        "target": target,
        "shifted": torch.cat([beginning, target[:, :-1]], dim=1),
    }


def padded(rows: Iterable[ArrayLike]) -> Tensor:
    """Return ids as int64, shape (rows, longest)."""
    ids = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(ids, batch_first=True, padding_value=PAD_ID)
