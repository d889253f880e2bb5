"""WordPiece, BERT's sub-word vocabulary, trained and loaded with ``tokenizers``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, CLS, SEP, MASK)
"""Their ids are 0 to 4, in this order."""


def train_wordpiece(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a tokenizer of lower-case WordPieces, with at most ``vocab_size`` of them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL], show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def load_wordpiece(path: Path) -> Tokenizer:
    """Return the tokenizer in a ``tokenizer.json``, as ``tokenizers`` and transformers save it.

    Raises:
        ValueError: the file is missing, is no tokenizer, or lacks BERT's special tokens.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise ValueError(
            f"{path} is not a tokenizer: expected a tokenizer.json, {error}"
        ) from error
    lacking = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
    if lacking:
        raise ValueError(f"{path} lacks the token {lacking[0]}: expected BERT's, {SPECIAL}")
    return tokenizer
