from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ray_autolrs.workloads.bert.documents import read_documents
from ray_autolrs.workloads.bert.sentence_pairs import (
    IGNORED,
    MASK,
    SPECIAL,
    SentencePairs,
    masking,
    train_wordpiece,
)
from tests.workloads.text_files import write_documents

LENGTH = 24


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return read_documents(write_documents(tmp_path_factory.mktemp("text") / "text"))


@pytest.fixture(scope="module")
def tokenizer(documents):
    return train_wordpiece((sentence for document in documents for sentence in document), 200)


@pytest.fixture(scope="module")
def pairs(documents, tokenizer):
    return SentencePairs(documents, tokenizer, LENGTH)


def read(sample):
    """Return a sample's ids, the length of its first span, and whether the next one follows."""
    ids = sample["input_ids"]
    return ids, sample["token_type_ids"].index(1), sample["next_sentence_label"] == 0


def test_special_tokens_come_first(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]


def test_samples_have_two_spans_and_fit(pairs):
    random.seed(0)
    for index in range(len(pairs)):
        ids, first_length, _ = read(pairs[index])
        assert len(ids) <= LENGTH
        assert ids[0] == 2
        assert ids[first_length - 1] == 3
        assert ids[-1] == 3
        assert ids.count(3) == 2
        assert 2 < first_length < len(ids)


def test_half_of_the_pairs_follow_each_other_in_the_text(documents, tokenizer, pairs):
    random.seed(0)
    drawn = [read(pairs[index]) for index in range(len(pairs)) for _ in range(10)]
    follows = [is_next for _, _, is_next in drawn]
    assert 0.3 < sum(follows) / len(follows) < 0.6
    joined = [
        " ".join(str(token) for text in document for token in tokenizer.encode(text).ids)
        for document in documents
    ]
    for ids, first_length, is_next in drawn:
        if is_next:
            both = [*ids[1 : first_length - 1], *ids[first_length:-1]]
            span = " ".join(map(str, both))
            assert any(span in document for document in joined)


def test_the_length_of_a_pair_does_not_tell_what_it_is(pairs):
    random.seed(0)
    many = [index for index in range(len(pairs)) if np.diff(pairs._spans[index])[0] > 1]
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(20):
        for index in many:
            ids, _, is_next = read(pairs[index])
            lengths[is_next].append(len(ids))
    # A sample has up to 24 tokens.
    assert abs(np.mean(lengths[True]) - np.mean(lengths[False])) < 3


def test_every_sentence_is_in_some_span(documents, tokenizer, pairs):
    spans = pairs._spans
    covered = [place for first, after in spans for place in range(first, after)]
    assert covered == list(range(sum(map(len, documents))))


def test_a_sentence_longer_than_a_sample_is_cut(tokenizer):
    long = [["red " * 100, "blue " * 100], ["green " * 100]]
    pairs = SentencePairs(long, tokenizer, LENGTH)
    for index in range(len(pairs)):
        ids, first_length, is_next = read(pairs[index])
        assert len(ids) == LENGTH
        assert first_length > 3
        assert not is_next


def test_one_sample_is_too_few(tokenizer):
    with pytest.raises(ValueError, match=r"the text gives 1 sample\(s\) of 24 tokens"):
        SentencePairs([["red tree"]], tokenizer, LENGTH)


def test_masking_follows_bert(pairs, tokenizer):
    random.seed(0)
    torch.manual_seed(0)
    samples = [pairs[index % len(pairs)] for index in range(2000)]
    batch = masking(tokenizer)(samples)
    inputs, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    chosen = labels != IGNORED
    original = np.where(chosen, labels, inputs)
    ordinary = 0
    for row, (ids, first_length, is_next) in enumerate(map(read, samples)):
        assert np.array_equal(original[row, : len(ids)], ids)
        ordinary += len(ids) - 3
        assert batch["attention_mask"][row].sum() == len(ids)
        assert batch["token_type_ids"][row].sum() == len(ids) - first_length
        assert batch["next_sentence_label"][row] == (0 if is_next else 1)
    assert not np.isin(original[chosen], range(len(SPECIAL))).any(), "special tokens stay"
    count = chosen.sum()
    assert count / ordinary == pytest.approx(0.15, abs=4 * (0.13 / ordinary) ** 0.5)
    masked = inputs[chosen] == tokenizer.token_to_id(MASK)
    kept = inputs[chosen] == labels[chosen]
    # A random token is [MASK], or the same one again, now and then.
    again = 0.1 / tokenizer.get_vocab_size()
    assert masked.mean() == pytest.approx(0.8 + again, abs=4 * (0.16 / count) ** 0.5)
    assert kept.mean() == pytest.approx(0.1 + again, abs=4 * (0.09 / count) ** 0.5)


def test_masks_follow_the_global_seed(pairs, tokenizer):
    samples = [pairs[index] for index in range(8)]
    mask = masking(tokenizer)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(mask(samples)["labels"])
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
