from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace

import pytest
import torch

from bench.tasks import image_data, text_data, translation


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Fashion-MNIST be small and on no disk: ten noisy prototypes, which can be learned."""
    prototypes = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def fashion_mnist(folder: Path, part: str) -> SimpleNamespace:
        generator = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[part])
        count = 2000 if part == "train" else 300
        labels = torch.randint(10, (count,), generator=generator)
        noise = torch.rand(count, 1, 28, 28, generator=generator)
        images = (255 * (0.2 * prototypes[labels] + 0.8 * noise)).to(torch.uint8)
        return SimpleNamespace(images=images, labels=labels)

    monkeypatch.setattr(image_data, "fashion_mnist", fashion_mnist)
    _forget_images()
    yield
    _forget_images()


def _forget_images() -> None:
    image_data.flat_fashion.cache_clear()
    image_data._half_size_fashion.cache_clear()


@pytest.fixture(scope="session")
def aligned_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the translation needs it, of Python's help topics in place of two languages."""
    folder: Path = tmp_path_factory.mktemp("text")
    lines = [line.strip() for name in sorted(topics) for line in topics[name].splitlines()]
    lines = [line for line in lines if line]
    tenth = len(lines) // 10
    parts = {"val": lines[:tenth], "test": lines[tenth : 2 * tenth], "train": lines[2 * tenth :]}
    for part, found in parts.items():
        for language in ("en", "de"):
            (folder / f"{part}.{language}").write_text("\n".join(found) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def parallel_text(monkeypatch: pytest.MonkeyPatch, aligned_text: Path) -> Path:
    """The environment names the folder."""
    monkeypatch.setenv(text_data.TRANSLATION_FOLDER, str(aligned_text))
    translation._sentence_pairs.cache_clear()
    return aligned_text
