"""Publishing and loading a snapshot through Ray's object store, against memcpy and torch.save.

    python -m bench.snapshot_store

The state is a model's and Adam's: three tensors for each parameter, in 300 MB. Times are medians of
warm repetitions; the ratios hold, the milliseconds are the machine's. At last it tells what all
lanes together take of the object store, and the most that one of them takes for itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray._private.internal_api import node_stats

from bench.measurement import Row, options, write_results
from ray_autolrs.training.transport import pack, unpack

CPU = torch.device("cpu")


def median_ms(action: Callable[[], object], repetitions: int, warm_up: int = 6) -> float:
    times = []
    for _ in range(warm_up + repetitions):
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
        del result
        time.sleep(0.05)  # the object store frees what was deleted
    return 1000 * statistics.median(times[warm_up:])


def object_store_mb() -> float:
    """Bytes of all objects on this node; Ray has no public call for it."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
    stats = node_stats(address, port)  # type: ignore[no-untyped-call]
    return float(stats.store_stats.object_store_bytes_used) / 1e6


class Reader:
    """A lane: restores into tensors of its own, and tells its private memory before and after."""

    def read(self, holder: list[Any], shapes: list[int]) -> float:
        targets = [torch.zeros(size) for size in shapes]
        before = self._private_mb()
        state = unpack(ray.get(holder[0]), CPU)
        for target, tensor in zip(targets, state, strict=True):
            target.copy_(tensor)
        return self._private_mb() - before

    def _private_mb(self) -> float:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
        return sum(private) / 1e3


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--tensors", type=int, default=450)
    parser.add_argument("--lanes", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    ray.init(
        address="local",
        num_cpus=2,
        # Small, so that all its pages have been touched when the warm-up ends.
        object_store_memory=max(80, 4 * arguments.megabytes) * 1_000_000,
        log_to_driver=False,
    )
    try:
        write_results("snapshot_store", vars(arguments), measure(arguments))
    finally:
        ray.shutdown()


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the time of each way to copy the state, then what the lanes take to hold it."""
    repetitions = arguments.repetitions
    source = torch.randn(arguments.megabytes * 1_000_000 // 4)
    state = [part.clone() for part in source.chunk(arguments.tensors)]
    targets = [torch.zeros_like(tensor) for tensor in state]
    plain = np.zeros_like(source.numpy())

    def restore(reference: Any) -> None:
        for target, tensor in zip(targets, unpack(ray.get(reference), CPU), strict=True):
            target.copy_(tensor)

    memcpy_ms = median_ms(lambda: np.copyto(plain, source.numpy()), repetitions)

    def row(what: str, ms: float) -> Row:
        return {"what": what, "value": ms, "unit": "ms", "times memcpy": ms / memcpy_ms}

    yield row("memcpy", memcpy_ms)
    yield row("put", median_ms(lambda: ray.put(pack(state)), repetitions))
    time.sleep(2.0)  # until what was put above is freed
    before_mb = object_store_mb()
    reference = ray.put(pack(state))
    yield row("get and restore", median_ms(lambda: restore(reference), repetitions))
    assert all(torch.equal(one, two) for one, two in zip(state, targets, strict=True))
    actor: Any = ray.remote(num_cpus=0)(Reader)
    readers = [actor.remote() for _ in range(arguments.lanes)]
    shapes = [tensor.numel() for tensor in state]
    private_mb = ray.get([reader.read.remote([reference], shapes) for reader in readers])
    shared_mb = object_store_mb() - before_mb
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "state.pt"
        yield row("torch.save", median_ms(lambda: torch.save(state, path), 3, warm_up=1))
        yield row("torch.load", median_ms(lambda: torch.load(path), 3, warm_up=1))
    held = {"unit": "MB", "times memcpy": None}
    yield {"what": "object store, snapshot and lanes", "value": shared_mb, **held}
    yield {"what": "private memory of a lane, the most", "value": max(private_mb), **held}


if __name__ == "__main__":
    main()
