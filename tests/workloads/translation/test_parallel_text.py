from __future__ import annotations

import numpy as np
import pytest

from ray_autolrs.workloads.translation.parallel_text import (
    EOS_ID,
    PAD_ID,
    SPECIAL,
    Buckets,
    collate_bucket,
    read_pairs,
    train_bpe,
)
from tests.workloads.parallel_files import write_parallel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_parallel(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def files(folder):
    return folder / "train.en", folder / "train.de"


@pytest.fixture(scope="module")
def tokenizer(files):
    return train_bpe(read_pairs(*files), 480)


def test_pairs_are_aligned_and_empty_lines_left_out(tmp_path):
    (tmp_path / "a.en").write_text("one\n\nthree \nfour\n")
    (tmp_path / "a.de").write_text("eins\nzwei\n drei\nvier")
    found = list(read_pairs(tmp_path / "a.en", tmp_path / "a.de"))
    assert found == [("one", "eins"), ("three", "drei"), ("four", "vier")]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (None, b"a\n", r"/a.en is missing: expected .* one sentence a line, aligned with a.de"),
        (b"a\n", None, r"/a.de is missing: expected"),
        (b"a\nb\n", b"a\n", r"/a.de ends after 1 lines and a.en does not"),
        (b"a\n", b"a\nb\n", r"/a.en ends after 1 lines and a.de does not"),
        (b"\xff\n", b"a\n", r"a.en or a.de cannot be read after line 0: expected text in UTF-8"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, source, target, message):
    for name, content in (("a.en", source), ("a.de", target)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_pairs(tmp_path / "a.en", tmp_path / "a.de"))


def test_bpe_is_joint_and_loses_nothing(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    text = "Größe, naïve — 東京 (x_1)!"
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text
    assert len(tokenizer.encode("river").ids) == len(tokenizer.encode("RIVER").ids) == 1


def buckets_of(files, tokenizer, **overrides):
    values = {"bucket_tokens": 60, "max_length": 20}
    return Buckets(read_pairs(*files), tokenizer, **(values | overrides))


def test_buckets_hold_every_pair_once_and_keep_to_their_tokens(files, tokenizer):
    buckets = buckets_of(files, tokenizer)
    pairs = [pair for index in range(len(buckets)) for pair in buckets[index]]
    expected = [
        (*tokenizer.encode(source).ids, EOS_ID, -1, *tokenizer.encode(target).ids, EOS_ID)
        for source, target in read_pairs(*files)
    ]
    assert sorted((*source, -1, *target) for source, target in pairs) == sorted(expected)
    tokens = [
        [sum(len(pair[side]) for pair in buckets[index]) for side in (0, 1)]
        for index in range(len(buckets))
    ]
    assert np.max(tokens) <= 60
    assert np.mean([max(sides) for sides in tokens[:-1]]) > 50


def test_long_pairs_are_left_out(files, tokenizer):
    buckets = buckets_of(files, tokenizer, max_length=5)
    longest = max(len(side) for index in range(len(buckets)) for p in buckets[index] for side in p)
    assert longest == 5
    with pytest.raises(ValueError, match="of 300 sentence pairs none has at most max_length=1"):
        buckets_of(files, tokenizer, max_length=1)


def test_the_decoder_sees_what_it_said_before():
    one = (np.array([7, EOS_ID]), np.array([8, 9, EOS_ID]))
    two = (np.array([5, 6, EOS_ID]), np.array([4, EOS_ID]))
    batch = collate_bucket([one, two])
    assert batch["source"].tolist() == [[7, 3, PAD_ID], [5, 6, 3]]
    assert batch["target"].tolist() == [[8, 9, 3], [4, 3, PAD_ID]]
    assert batch["shifted"].tolist() == [[2, 8, 9], [2, 4, 3]]
