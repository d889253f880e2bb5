"""The order of an epoch: a permutation of the training set, whatever its size.

Small sets are permuted in memory. Of large ones a keyed bijection gives each place's sample by
itself, in O(1) memory: a Feistel network (Luby & Rackoff 1988) over the numbers of as many bits as
the size has, walked on where it leaves the set (Black & Rogaway 2002).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ray_autolrs.training.random_streams import Stream, stream_seed

LARGEST_IN_MEMORY = 2**20
"""Samples up to which a permutation is held, of 8 MB; it is the order that runs have always had."""

ROUNDS = 6
"""Even, so that the halves are back in their places. Four would do for random keyed functions."""

Numbers = np.ndarray[Any, np.dtype[np.uint64]]


def epoch_order(size: int, seed: int, first: int, count: int) -> list[int]:
    """Return the dataset indices at places ``first`` to ``first + count - 1`` of the run.

    Place p lies in epoch p // size; each epoch is a permutation of its own.
    """
    if size <= LARGEST_IN_MEMORY:
        places = range(first, first + count)
        return [int(_permutation(size, seed, place // size)[place % size]) for place in places]
    indices: list[int] = []
    while count > 0:
        epoch, start = divmod(first, size)
        taken = min(count, size - start)
        indices += permuted(np.arange(start, start + taken, dtype=np.uint64), size, seed, epoch)
        first, count = first + taken, count - taken
    return indices


def permuted(places: Numbers, size: int, seed: int, epoch: int) -> list[int]:
    """Return the indices at places of an epoch, each in [0, size), by the bijection.

    Args:
        places: in [0, size).
        size: of the set, at least 2.
        seed: with the epoch, the key.
        epoch: number of the epoch.
    """
    keys = [stream_seed(seed, Stream.PERMUTATION, epoch, number) for number in range(ROUNDS)]
    bits = (size - 1).bit_length()
    indices = _mixed(places, bits, keys)
    # Fewer than half of all numbers of these bits lie outside: what does is sent on until it lies
    # inside, which no other number's way does at the same place.
    outside = indices >= size
    while outside.any():
        indices[outside] = _mixed(indices[outside], bits, keys)
        outside = indices >= size
    order: list[int] = indices.tolist()
    return order


def _mixed(numbers: Numbers, bits: int, keys: list[int]) -> Numbers:
    """Permute the numbers of ``bits`` bits."""
    high_bits, low_bits = bits // 2, bits - bits // 2
    high, low = numbers >> np.uint64(low_bits), numbers & _mask(low_bits)
    for key in keys:
        # The halves change their places, and so their widths.
        high, low = low, high ^ (_hash(low, key) & _mask(high_bits))
        high_bits, low_bits = low_bits, high_bits
    return (high << np.uint64(low_bits)) | low


def _hash(values: Numbers, key: int) -> Numbers:
    """Mix 64 bits, as SplitMix64 does (Steele et al. 2014)."""
    mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    generator = np.random.default_rng(stream_seed(seed, Stream.PERMUTATION, epoch))
    return generator.permutation(size)
