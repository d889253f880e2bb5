"""The benchmarks' translation, English to German, from the folder that the environment names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import Dataset

from bench.tasks.encoder_decoder import EncoderDecoder
from bench.tasks.kinds import BenchTask, Part, Rows
from bench.tasks.text_data import parallel_folder
from ray_autolrs.workloads.translation.parallel_text import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    read_pairs,
    train_bpe,
)

_Pair = tuple[list[int], list[int]]


class Translation(BenchTask):
    """An encoder and a decoder; Adam with the Transformer's settings."""

    global_batch_size = 8
    max_length, vocabulary = 24, 1000

    def build_model(self) -> nn.Module:
        return EncoderDecoder(
            vocabulary=self.vocabulary,
            width=32,
            layers=1,
            heads=2,
            hidden=128,
            max_length=self.max_length,
            pad_id=PAD_ID,
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9)

    def data(self, part: Part) -> Dataset[Any]:
        return _sentence_pairs(self.max_length, self.vocabulary)[part]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        source, shifted, target = batch
        logits = model(source, shifted)
        return cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD_ID)


class PairRows(Rows):
    """Sentence pairs, padded to the longest in the batch: (source, shifted target, target)."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        sources, targets = super().__getitems__(indices)
        sources = sources[:, : int((sources != PAD_ID).sum(dim=1).max())]
        targets = targets[:, : int((targets != PAD_ID).sum(dim=1).max())]
        ended = targets.masked_fill(targets == EOS_ID, PAD_ID)[:, :-1]
        return sources, pad(ended, (1, 0), value=BOS_ID), targets


@lru_cache(maxsize=1)
def _sentence_pairs(max_length: int, vocabulary: int) -> dict[str, PairRows]:
    """Return, by part, the pairs of at most ``max_length`` byte pairs on both sides.

    Raises:
        ValueError: the environment names no folder, or a file is missing there.
    """
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
