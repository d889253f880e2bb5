from __future__ import annotations

import pytest

from ray_autolrs.workloads.documents import part_of, python_documents, read_documents


def test_blocks_are_documents_and_lines_sentences(tmp_path):
    path = tmp_path / "text"
    path.write_text("One line.\nTwo. And three!\n\n\n  \nFour\n\nFive", encoding="utf-8")
    assert read_documents(path) == [["One line.", "Two.", "And three!"], ["Four"], ["Five"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "/text is missing: expected a text file, one document for each block of lines"),
        (b"\xff\xfe", "/text cannot be read: expected text in UTF-8"),
        (b"", r"/text holds 0 document\(s\): expected at least 3"),
        (b"a\nb\n\nc\n", r"/text holds 2 document\(s\): expected at least 3, blocks of lines"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "text")


def test_parts_do_not_overlap_and_leave_nothing_out():
    documents = [[str(number)] for number in range(100)]
    parts = [part_of(documents, part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [90, 5, 5]
    assert sorted(document for part in parts for document in part) == sorted(documents)


def test_pythons_own_text_is_there():
    documents = python_documents()
    assert len(documents) > 200
    text = " ".join(sentence for document in documents for sentence in document)
    assert len(text) > 1_000_000
    assert "An identifier occurring as an atom is a name." in text
