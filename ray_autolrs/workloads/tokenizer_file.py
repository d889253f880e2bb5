"""A tokenizer that the user brings, as ``tokenizers`` and transformers save it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


def load_tokenizer(path: Path, special: Sequence[str], *, are_first: bool = False) -> Tokenizer:
    """Return the tokenizer in a ``tokenizer.json``.

    Args:
        path: of the file.
        special: tokens that it must have.
        are_first: their ids must be 0, 1, 2 and so on.

    Raises:
        ValueError: the file is missing, is no tokenizer, or its special tokens are others.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise ValueError(
            f"{path} is not a tokenizer: expected a tokenizer.json, {error}"
        ) from error
    ids = [tokenizer.token_to_id(token) for token in special]
    if None in ids or (are_first and ids != list(range(len(special)))):
        place = " as its first tokens" if are_first else ""
        raise ValueError(f"{path}: expected a tokenizer with {', '.join(special)}{place}")
    return tokenizer
