from __future__ import annotations

import gzip

import numpy as np
import pytest

from ray_autolrs.workloads.idx_files import read_idx
from tests.workloads.images import idx_bytes

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_reads_a_plain_file(tmp_path):
    (tmp_path / "a").write_bytes(idx_bytes(VALUES))
    assert np.array_equal(read_idx(tmp_path / "a", 3), VALUES)


def test_reads_a_compressed_file(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(VALUES)))
    assert np.array_equal(read_idx(tmp_path / "a", 3), VALUES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b", b"", r"/a is missing, and so is a.gz: expected an idx file"),
        ("a.gz", b"no gzip", r"/a.gz cannot be decompressed: expected gzip"),
        ("a.gz", gzip.compress(idx_bytes(VALUES))[:-9], r"/a.gz cannot be decompressed"),
        ("a", b"GIF8", r"/a begins with '47 49 46 38': expected .* '00 00 08 03'"),
        ("a", idx_bytes(VALUES[0]), r"/a begins with '00 00 08 02'.* in 3 dimensions"),
        ("a", idx_bytes(VALUES)[:-1], r"/a holds 23 values: expected 24 for its shape \(2, 3, 4\)"),
    ],
)
def test_refuses_other_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "a", 3)
