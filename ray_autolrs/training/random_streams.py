"""Random numbers that depend on where they are drawn, not on what was drawn before.

Every probe of a stage, and the run that is applied after them, must see the same augmentation
and the same dropout masks. So each micro-batch is seeded anew by (seed, step, micro).
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch


class Stream(IntEnum):
    """What the random numbers are for; two streams never share a seed."""

    BUILD = 0
    DATA = 1
    MODEL = 2
    PERMUTATION = 3
    VALIDATION_SUBSET = 4
    EVALUATION_DATA = 5
    EVALUATION_MODEL = 6


def stream_seed(seed: int, stream: Stream, *address: int) -> int:
    """Return a 64-bit seed for a place in a run, well mixed for neighbouring addresses.

    A hash: in the middle of training it costs 2 µs, and NumPy's ``SeedSequence`` 30 µs.
    """
    place = repr((seed, int(stream), *address)).encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "little")


def seed_everything(seed: int, stream: Stream, *address: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, on the CPU and on every GPU.

    It costs about 10 µs, because it is called for each micro-batch: ``torch.manual_seed`` takes
    most of 100 µs to note, for GPUs that are not in use, where it was called from.
    """
    value = stream_seed(seed, stream, *address)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)


def random_states(devices: Sequence[torch.device] | None = None) -> dict[str, Any]:
    """Return the states of the global generators: Python's, NumPy's and PyTorch's.

    Args:
        devices: the GPUs whose states are wanted too; None is all of them, once CUDA is in use.

    Returns:
        Plain data: tuples, numbers and tensors.
    """
    numpy_state: Any = np.random.get_state()
    kind, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        # Signed, because PyTorch lacks most operations on unsigned integers.
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in _gpus(devices)],
    }


def set_random_states(
    states: dict[str, Any], devices: Sequence[torch.device] | None = None
) -> None:
    """Put back what :func:`random_states` returned, perhaps on a machine with other GPUs."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for device, state in zip(_gpus(devices), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)


@contextlib.contextmanager
def random_states_kept(*, with_cuda: bool) -> Iterator[None]:
    """Leave the random states as they were before, whatever is drawn or seeded within.

    Args:
        with_cuda: the GPUs' too; CUDA is started in this process if it was not.
    """
    if with_cuda and torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _gpus(devices: Sequence[torch.device] | None) -> Sequence[torch.device]:
    if devices is not None:
        return [device for device in devices if device.type == "cuda"]
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


class OwnRandomStates:
    """A context with random states of its own: they go on where they were left the last time.

    At first they are the states that there are when it is made.
    """

    def __init__(self) -> None:
        self._own = self._outer = random_states()

    def __enter__(self) -> None:
        self._outer = random_states()
        set_random_states(self._own)

    def __exit__(self, *raised: object) -> None:
        self._own = random_states()
        set_random_states(self._outer)
