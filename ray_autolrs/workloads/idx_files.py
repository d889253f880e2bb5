"""Reader of idx files, the format that MNIST and Fashion-MNIST come in.

Layout, numbers big-endian: two zero bytes, a byte for the type (8: unsigned byte), a byte for
the number of dimensions, an unsigned 32-bit size for each dimension, then the values.
Source: the description of the format on MNIST's page.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

UNSIGNED_BYTE = 8
"""The type byte of values from 0 to 255, the only one that these data sets use."""


def read_idx(path: Path, dimensions: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the array in an idx file, plain or compressed with gzip.

    Args:
        path: the plain file's name; where there is none, ``path`` with ``.gz`` behind is read.
        dimensions: dimensions that the array must have.

    Raises:
        ValueError: neither file exists, or it is not such an array. The message names the file
            and what was expected.
    """
    found = next(
        (file for file in (path, path.with_name(f"{path.name}.gz")) if file.exists()), None
    )
    if found is None:
        raise ValueError(f"{path} is missing, and so is {path.name}.gz: expected an idx file")
    content = found.read_bytes()
    if found.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{found} cannot be decompressed: expected gzip, {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]):
        raise ValueError(
            f"{found} begins with {content[:4].hex(' ')!r}: expected an idx file of unsigned bytes "
            f"in {dimensions} dimensions, which begins with '00 00 08 {dimensions:02x}'"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    values = np.frombuffer(content, np.uint8, offset=header)
    if len(values) != math.prod(shape):
        raise ValueError(
            f"{found} holds {len(values)} values: expected {math.prod(shape)} for its shape {shape}"
        )
    return values.reshape(shape)
