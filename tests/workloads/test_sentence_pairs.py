from __future__ import annotations

import random

import numpy as np
import pytest

from ray_autolrs.workloads.documents import read_documents
from ray_autolrs.workloads.sentence_pairs import IGNORED, Masking, SentencePairs
from ray_autolrs.workloads.wordpiece import MASK, SPECIAL, load_wordpiece, train_wordpiece
from tests.workloads.text import write_documents

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


def test_special_tokens_come_first(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]


def test_a_saved_tokenizer_is_loaded(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_wordpiece(tmp_path / "tokenizer.json")
    assert loaded.encode("red river").ids == tokenizer.encode("red river").ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "/t.json is missing: expected a tokenizer.json"),
        ("{}", "/t.json is not a tokenizer: expected a tokenizer.json"),
    ],
)
def test_other_tokenizers_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_wordpiece(tmp_path / "t.json")


def test_samples_have_two_spans_and_fit(pairs):
    random.seed(0)
    for index in range(len(pairs)):
        ids, first_length, _ = pairs[index]
        assert len(ids) <= LENGTH
        assert ids[0] == 2
        assert ids[first_length - 1] == 3
        assert ids[-1] == 3
        assert np.count_nonzero(ids == 3) == 2
        assert 2 < first_length < len(ids)


def test_half_of_the_pairs_follow_each_other_in_the_text(documents, tokenizer, pairs):
    random.seed(0)
    drawn = [pairs[index] for index in range(len(pairs)) for _ in range(10)]
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
            ids, _, is_next = pairs[index]
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
        ids, first_length, is_next = pairs[index]
        assert len(ids) == LENGTH
        assert first_length > 3
        assert not is_next


def test_one_sample_is_too_few(tokenizer):
    with pytest.raises(ValueError, match=r"the text gives 1 sample\(s\) of 24 tokens"):
        SentencePairs([["red tree"]], tokenizer, LENGTH)


def test_masking_follows_bert(pairs, tokenizer):
    random.seed(0)
    np.random.seed(0)
    masking = Masking(tokenizer)
    samples = [pairs[index % len(pairs)] for index in range(2000)]
    batch = masking(samples)
    inputs, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    chosen = labels != IGNORED
    original = np.where(chosen, labels, inputs)
    for row, (ids, first_length, is_next) in enumerate(samples):
        assert np.array_equal(original[row, : len(ids)], ids)
        ordinary = len(ids) - 3
        assert chosen[row].sum() == max(1, np.rint(0.15 * ordinary))
        assert batch["attention_mask"][row].sum() == len(ids)
        assert batch["token_type_ids"][row].sum() == len(ids) - first_length
        assert batch["next_sentence_label"][row] == (0 if is_next else 1)
    assert not np.isin(original[chosen], range(len(SPECIAL))).any(), "special tokens stay"
    masked = inputs[chosen] == tokenizer.token_to_id(MASK)
    kept = inputs[chosen] == labels[chosen]
    count = len(masked)
    assert masked.mean() == pytest.approx(0.8, abs=4 * (0.16 / count) ** 0.5)
    # A random token is the same one again now and then.
    again = 0.1 / (tokenizer.get_vocab_size() - len(SPECIAL))
    assert kept.mean() == pytest.approx(0.1 + again, abs=4 * (0.09 / count) ** 0.5)


def test_masks_follow_the_global_seed(pairs, tokenizer):
    masking = Masking(tokenizer)
    samples = [pairs[index] for index in range(8)]
    drawn = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        drawn.append(masking(samples)["labels"])
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
