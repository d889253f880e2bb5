"""BERT's pre-training samples: pairs of text spans, and the masking of a batch of them.

Departures from BERT's published preparation, which fixes pairs and masks once in a file: here
both are drawn anew whenever a sample is read, from random numbers that are seeded by step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from ray_autolrs.workloads.documents import Documents
from ray_autolrs.workloads.wordpiece import CLS, MASK, PAD, SEP, SPECIAL

MASKED = 0.15
"""Part of the tokens to predict. Source: BERT, section 3.1, as are the next two."""

REPLACED, RANDOM = 0.8, 0.1
"""Of those, the parts that become [MASK] and a random token; the rest stays."""

IGNORED = -100
"""Label of a token that is not predicted (PyTorch's ``ignore_index``)."""

Array = np.ndarray[Any, np.dtype[Any]]
Sample = tuple[Array, int, bool]
"""(token ids with [CLS] and [SEP], length of the first span with its two, is the next span)."""

_ENCODE_BATCH = 4096


class SentencePairs(Dataset[Any]):
    """Spans of consecutive sentences that fill ``max_length``, each cut into a pair at random.

    Half of the pairs get a second span from elsewhere. Two bytes for each token of the text stay
    in memory, four where the vocabulary is larger than 65,536.

    Args:
        documents: of sentences.
        tokenizer: gives the ids, and has BERT's special tokens.
        max_length: tokens in a sample, [CLS] and two [SEP] included.

    Raises:
        ValueError: fewer than two samples come out of the documents.
    """

    def __init__(self, documents: Documents, tokenizer: Tokenizer, max_length: int) -> None:
        self._max_tokens = max_length - 3
        self._cls, self._sep = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)
        sentences = [sentence for document in documents for sentence in document]
        dtype = np.uint16 if tokenizer.get_vocab_size() <= 65_536 else np.uint32
        encoded: list[Array] = []
        for first in range(0, len(sentences), _ENCODE_BATCH):
            batch = tokenizer.encode_batch(
                sentences[first : first + _ENCODE_BATCH], add_special_tokens=False
            )
            encoded += [np.array(one.ids, dtype) for one in batch]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._tokens = np.concatenate([*encoded, np.array([], dtype)])
        self._spans = self._cut(documents)
        if len(self._spans) < 2:
            raise ValueError(
                f"the text gives {len(self._spans)} sample(s) of {max_length} tokens; give at "
                "least two documents with text in them"
            )

    def _cut(self, documents: Documents) -> Array:
        """Return spans, each in one document, as rows (first sentence, sentence after the last)."""
        spans: list[tuple[int, int]] = []
        place = 0
        for document in documents:
            end = place + len(document)
            while place < end:
                last = int(
                    np.searchsorted(self._ends, self._ends[place] + self._max_tokens, "right")
                )
                after = min(max(last - 1, place + 1), end)
                if self._ends[after] > self._ends[place]:
                    spans.append((place, after))
                place = after
        return np.array(spans, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Sample:
        first, after = self._spans[index]
        cut = self._random_cut(first, after)
        one = self._text(first, cut)
        is_next = cut < after and random.random() < 0.5
        if is_next:
            two = self._text(cut, after)
        else:
            # The end of another span, so that a pair's length does not tell what it is.
            other = random.randrange(len(self._spans) - 1)
            start, end = self._spans[other + (other >= index)]
            other_cut = self._random_cut(start, end)
            two = self._text(other_cut if other_cut < end else start, end)
        over = len(one) + len(two) - self._max_tokens
        if over > 0:  # a sentence longer than a sample, or a second span longer than its room
            kept = max(self._max_tokens - len(two), self._max_tokens // 2)
            one = one[:kept]
            two = two[: self._max_tokens - len(one)]
        ids = np.concatenate([[self._cls], one, [self._sep], two, [self._sep]]).astype(np.int64)
        return ids, len(one) + 2, bool(is_next)

    def _random_cut(self, first: int, after: int) -> int:
        """Return a sentence inside of a span to cut it before, or its end if it has only one."""
        return random.randint(first + 1, after - 1) if after - first > 1 else int(after)

    def _text(self, first: int, after: int) -> Array:
        return self._tokens[self._ends[first] : self._ends[after]]


class Masking:
    """Joins samples to a batch and masks it; picklable.

    Args:
        tokenizer: its special tokens are never masked and never put in at random.

    Example:
        >>> from ray_autolrs.workloads.wordpiece import train_wordpiece
        >>> masking = Masking(train_wordpiece(["a few words to learn from"], 60))
        >>> batch = masking([(np.array([2, 9, 10, 3, 11, 3]), 4, True)])
        >>> {name: tuple(value.shape) for name, value in batch.items()}  # doctest: +ELLIPSIS
        {'input_ids': (1, 6), 'token_type_ids': (1, 6), 'attention_mask': (1, 6), 'labels': ...}
        >>> int((batch["labels"] != IGNORED).sum())  # 15% of 3 tokens, but at least one
        1
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        self._pad, self._mask = vocabulary[PAD], vocabulary[MASK]
        self._special = np.array([vocabulary[token] for token in SPECIAL])
        self._ordinary = np.setdiff1d(np.arange(tokenizer.get_vocab_size()), self._special)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return int64 tensors of shape (batch, longest sample), and labels of pairs (batch,).

        Draws from NumPy's global generator. ``next_sentence_label`` is 0 for a pair that follows
        each other and 1 for a random one, as in transformers.
        """
        width = max(len(ids) for ids, _, _ in samples)
        ids = np.full((len(samples), width), self._pad, np.int64)
        types = np.zeros_like(ids)
        for row, (sample, first_length, _) in enumerate(samples):
            ids[row, : len(sample)] = sample
            types[row, first_length : len(sample)] = 1
        lengths = np.array([len(sample) for sample, _, _ in samples])
        attention = np.arange(width) < lengths[:, None]
        inputs, labels = self._masked(ids)
        follows = [0 if is_next else 1 for _, _, is_next in samples]
        return {
            "input_ids": torch.from_numpy(inputs),
            "token_type_ids": torch.from_numpy(types),
            "attention_mask": torch.from_numpy(attention.astype(np.int64)),
            "labels": torch.from_numpy(labels),
            "next_sentence_label": torch.tensor(follows),
        }

    def _masked(self, ids: Array) -> tuple[Array, Array]:
        """Return what the model sees, and the labels; each row has 15% masked, but at least one."""
        scores: Array = np.asarray(np.random.random_sample(ids.shape))
        scores[np.isin(ids, self._special)] = 2.0
        ordinary = (scores < 2.0).sum(axis=1)
        counts = np.where(ordinary > 0, np.maximum(1, np.rint(MASKED * ordinary)), 0)
        rank = scores.argsort(axis=1).argsort(axis=1)
        chosen = rank < counts[:, None]
        labels = np.where(chosen, ids, IGNORED)
        fate: Array = np.asarray(np.random.random_sample(ids.shape))
        inputs = np.where(chosen & (fate < REPLACED), self._mask, ids)
        put_in = chosen & (fate >= REPLACED) & (fate < REPLACED + RANDOM)
        inputs[put_in] = np.random.choice(self._ordinary, int(put_in.sum()))
        return inputs, labels
