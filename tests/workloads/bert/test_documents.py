from __future__ import annotations

import pytest

from ray_autolrs.workloads.bert.documents import part_of, python_documents, read_documents


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


def test_pythons_own_text_is_the_help_and_the_librarys_docstrings(tmp_path, monkeypatch):
    docstring = '"""{} is a module. It has two\nsentences of some words."""'
    for name in ("good.py", "package/good.py", "package/tests/skipped.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(docstring.format(name))
    (tmp_path / "wrong.py").write_text("no python: 1 +")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    documents = python_documents.__wrapped__()
    assert len(documents) > 50
    text = " ".join(sentence for document in documents for sentence in document)
    assert "An identifier occurring as an atom is a name." in text
    assert documents[-2:] == (
        ("good.py is a module.", "It has two sentences of some words."),
        ("package/good.py is a module.", "It has two sentences of some words."),
    )
