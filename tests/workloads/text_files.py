"""Tiny texts for tests."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "house",
    "tree",
    "river",
    "stone",
    "bird",
    "fish",
    "moon",
    "road",
    "cloud",
]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 9))) + " ."


def write_documents(path: Path, documents: int = 40) -> Path:
    rng = random.Random(0)
    blocks = ["\n".join(sentence(rng) for _ in range(rng.randint(2, 12))) for _ in range(documents)]
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path
