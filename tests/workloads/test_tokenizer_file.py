from __future__ import annotations

import pytest

from ray_autolrs.workloads.bert.sentence_pairs import SPECIAL, train_wordpiece
from ray_autolrs.workloads.tokenizer_file import load_tokenizer


def test_a_saved_tokenizer_is_loaded(tmp_path):
    tokenizer = train_wordpiece(["red river"] * 9, 60)
    tokenizer.save(str(tmp_path / "t.json"))
    loaded = load_tokenizer(tmp_path / "t.json", SPECIAL, are_first=True)
    assert loaded.encode("red river").ids == tokenizer.encode("red river").ids


@pytest.mark.parametrize(
    ("content", "special", "message"),
    [
        (None, SPECIAL, "/t.json is missing: expected a tokenizer.json"),
        ("{}", SPECIAL, "/t.json is not a tokenizer: expected a tokenizer.json"),
        ("", ("<s>",), "/t.json: expected a tokenizer with <s> as its first tokens"),
        ("", SPECIAL[1:], r"/t.json: expected a tokenizer with \[UNK\], .* as its first tokens"),
    ],
)
def test_other_tokenizers_are_refused(tmp_path, content, special, message):
    if content:
        (tmp_path / "t.json").write_text(content)
    elif content is not None:
        train_wordpiece(["red river"], 60).save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / "t.json", special, are_first=True)
