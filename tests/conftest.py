from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Keep small tensors off the thread pool, which is slow where cores are shared."""
    import torch

    torch.set_num_threads(1)
