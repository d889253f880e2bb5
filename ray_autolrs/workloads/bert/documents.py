"""Documents of sentences: from a text file, or from the English that comes with Python."""

from __future__ import annotations

import ast
import hashlib
import logging
import pydoc_data.topics
import re
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

Part = Literal["train", "validation", "test"]
Documents = list[list[str]]
"""Documents, each a list of sentences."""

logger = logging.getLogger(__name__)

HELD_OUT = 0.05
"""Part of the documents that is kept for validation, and again for the test. Ours."""

_SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")
_WORD = re.compile(r"[A-Za-z]{2,}")


def read_documents(path: Path) -> Documents:
    """Return the documents of a text file: blocks of lines between blank lines.

    Each line is a sentence; a line with several, as in running text, is cut at their ends.

    Raises:
        ValueError: the file is missing, is not UTF-8, or has fewer than three blocks.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a text file, one document for each block of lines, "
            "blocks apart by blank lines"
        )
    documents: Documents = []
    try:
        with path.open(encoding="utf-8") as lines:
            document: list[str] = []
            for line in lines:
                sentences = [text for text in _SENTENCE_END.split(line.strip()) if text]
                document += sentences
                if not sentences and document:
                    documents.append(document)
                    document = []
            if document:
                documents.append(document)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: expected text in UTF-8, {error}") from error
    if len(documents) < 3:
        raise ValueError(
            f"{path} holds {len(documents)} document(s): expected at least 3, blocks of lines "
            "apart by blank lines, because some are kept for validation and test"
        )
    return documents


def documents_of(text: str | None) -> Documents:
    """Return the documents of a text file, or Python's own.

    Raises:
        ValueError: the file is missing or malformed.
    """
    if text is None:
        return [list(document) for document in python_documents()]
    return read_documents(Path(text))


@lru_cache(maxsize=1)
def python_documents() -> tuple[tuple[str, ...], ...]:
    """Return Python's own English: the topics of ``help()`` and the docstrings of its library.

    It differs between Python versions, so its hash is logged.
    """
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED_FOLDERS & {*path.relative_to(root).parts}:
            texts.append(_docstrings(path))
    documents = tuple(document for text in texts if len(document := _sentences(text)) >= 2)
    content = "\n\n".join("\n".join(document) for document in documents)
    logger.info(
        "Python's own text: %d documents, %d characters, sha256 %s",
        len(documents),
        len(content),
        hashlib.sha256(content.encode()).hexdigest()[:12],
    )
    return documents


def part_of(documents: Documents, part: Part) -> Documents:
    """Return a part of the documents; the cut depends on their number alone.

    >>> documents = [[str(number)] for number in range(40)]
    >>> [len(part_of(documents, part)) for part in ("train", "validation", "test")]
    [36, 2, 2]
    """
    order = np.random.default_rng(0).permutation(len(documents))
    held = max(1, round(HELD_OUT * len(documents)))
    chosen = {
        "test": order[:held],
        "validation": order[held : 2 * held],
        "train": order[2 * held :],
    }[part]
    return [documents[place] for place in sorted(chosen)]


def _docstrings(path: Path) -> str:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # some files hold wrong code on purpose
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return "\n\n".join(text for text in found if text)


def _sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of wrapped text: lines of a paragraph are joined, then cut."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.split())
        found += [part for part in _SENTENCE_END.split(joined) if len(_WORD.findall(part)) >= 3]
    return tuple(found)
