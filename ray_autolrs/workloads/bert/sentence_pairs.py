"""BERT's pre-training samples: pairs of text spans, and the masking of a batch of them.

Departures from BERT's published preparation, which fixes pairs and masks once in a file: here
both are drawn anew whenever a sample is read, from random numbers that are seeded by step.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from torch.utils.data import Dataset
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from ray_autolrs.workloads.bert.documents import Documents

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, CLS, SEP, MASK)

IGNORED = -100
"""Label of a token that is not predicted (PyTorch's ``ignore_index``)."""

Array = np.ndarray[Any, np.dtype[Any]]
Sample = dict[str, Any]
"""What a tokenizer of transformers gives for a pair, and ``next_sentence_label``."""

_ENCODE_BATCH = 4096


def train_wordpiece(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a tokenizer of lower-case WordPieces, with at most ``vocab_size`` of them."""
    wordpiece = BertWordPieceTokenizer()
    wordpiece.train_from_iterator(
        iter(sentences), vocab_size=vocab_size, min_frequency=0, show_progress=False
    )
    return Tokenizer.from_str(wordpiece.to_str())


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
        lengths = [1, len(one), 1, len(two), 1]
        return {
            "input_ids": [self._cls, *one.tolist(), self._sep, *two.tolist(), self._sep],
            "token_type_ids": np.repeat([0, 0, 0, 1, 1], lengths).tolist(),
            "special_tokens_mask": np.repeat([1, 0, 1, 0, 1], lengths).tolist(),
            "next_sentence_label": 0 if is_next else 1,
        }

    def _random_cut(self, first: int, after: int) -> int:
        """Return a sentence inside of a span to cut it before, or its end if it has only one."""
        return random.randint(first + 1, after - 1) if after - first > 1 else int(after)

    def _text(self, first: int, after: int) -> Array:
        return self._tokens[self._ends[first] : self._ends[after]]


def masking(tokenizer: Tokenizer) -> DataCollatorForLanguageModeling:
    """Return what joins samples to a batch and masks it, by BERT's rule (section 3.1).

    15% of the tokens are to be predicted; of those, 80% become [MASK] and 10% a random token. It
    draws from PyTorch's global generator.
    """
    names = {"unk_token": UNKNOWN, "pad_token": PAD, "mask_token": MASK}
    return DataCollatorForLanguageModeling(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    )
