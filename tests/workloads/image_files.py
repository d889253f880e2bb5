"""Tiny image data sets on disk, for tests: bright at the top for class 0, at the bottom for 1."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx_bytes(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim])
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def bright_halves(labels: np.ndarray, size: int) -> np.ndarray:
    noise = np.random.default_rng(len(labels)).integers(0, 60, (len(labels), size, size))
    images = noise.astype(np.uint8)
    images[labels == 0, : size // 2] += 150
    images[labels == 1, size // 2 :] += 150
    return images


def write_fashion(folder: Path, train: int = 320, test: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 2).astype(np.uint8)
        images = bright_halves(labels, 28)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def write_image_folder(folder: Path, images_per_class: int = 4) -> Path:
    for part in ("train", "val"):
        for number, name in enumerate(("ant", "bee")):
            place = folder / part / name
            place.mkdir(parents=True)
            images = bright_halves(np.full(images_per_class, number), 64)
            for at, image in enumerate(images):
                Image.fromarray(image).convert("RGB").save(place / f"{at}.png")
    return folder
