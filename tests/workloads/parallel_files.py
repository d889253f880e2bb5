"""Tiny aligned files: the target says the source's words in another tongue, in reverse."""

from __future__ import annotations

import random
from pathlib import Path

from tests.workloads.text_files import WORDS


def translate(sentence: str) -> str:
    return " ".join(word.upper() for word in reversed(sentence.split()))


def write_parallel(folder: Path, train: int = 300) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for part, count in (("train", train), ("val", 30), ("test", 10)):
        lines = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(count)]
        (folder / f"{part}.en").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{part}.de").write_text("".join(f"{translate(line)}\n" for line in lines))
    return folder
