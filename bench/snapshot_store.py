"""Publishing and loading a snapshot through Ray's object store, against memcpy and torch.save.

The state is a model's and Adam's: three tensors for each parameter, in 300 MB. Times are medians of
warm repetitions; the ratios hold, the milliseconds are the machine's.

    python bench/snapshot_store.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray._private.internal_api import node_stats
from record import record

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
    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
    return float(stats.store_stats.object_store_bytes_used) / 1e6


@ray.remote(num_cpus=0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--tensors", type=int, default=450)
    parser.add_argument("--lanes", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=7)
    settings = vars(parser.parse_args())
    torch.set_num_threads(1)
    ray.init(
        address="local",
        num_cpus=2,
        # Small, so that all its pages have been touched when the warm-up ends.
        object_store_memory=4 * settings["megabytes"] * 1_000_000,
        log_to_driver=False,
    )
    repetitions = settings["repetitions"]
    source = torch.randn(settings["megabytes"] * 1_000_000 // 4)
    state = [part.clone() for part in source.chunk(settings["tensors"])]
    targets = [torch.zeros_like(tensor) for tensor in state]
    plain = np.zeros_like(source.numpy())

    def restore(reference: Any) -> None:
        for target, tensor in zip(targets, unpack(ray.get(reference), CPU), strict=True):
            target.copy_(tensor)

    memcpy = median_ms(lambda: np.copyto(plain, source.numpy()), repetitions)
    put = median_ms(lambda: ray.put(pack(state)), repetitions)
    time.sleep(2.0)  # until what was put above is freed
    before_mb = object_store_mb()
    reference = ray.put(pack(state))
    loaded = median_ms(lambda: restore(reference), repetitions)
    assert all(torch.equal(one, two) for one, two in zip(state, targets, strict=True))
    readers = [Reader.remote() for _ in range(settings["lanes"])]
    shapes = [tensor.numel() for tensor in state]
    private_mb = ray.get([reader.read.remote([reference], shapes) for reader in readers])
    shared_mb = object_store_mb() - before_mb
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "state.pt"
        saved = median_ms(lambda: torch.save(state, path), 3, warm_up=1)
        read = median_ms(lambda: torch.load(path), 3, warm_up=1)
    ray.shutdown()
    rows = [
        {"what": "memcpy", "ms": memcpy, "times memcpy": 1.0},
        {"what": "put", "ms": put, "times memcpy": put / memcpy},
        {"what": "get and restore", "ms": loaded, "times memcpy": loaded / memcpy},
        {"what": "torch.save", "ms": saved, "times memcpy": saved / memcpy},
        {"what": "torch.load", "ms": read, "times memcpy": read / memcpy},
    ]
    settings["save_and_load_over_put_and_restore"] = (saved + read) / (put + loaded)
    settings["object_store_of_snapshot_and_lanes_mb"] = shared_mb
    settings["private_memory_of_each_lane_mb"] = private_mb
    print(record("snapshot_store", settings, rows))
    print(f"save and load / put and restore: {settings['save_and_load_over_put_and_restore']:.1f}")
    print(f"object store with {len(readers)} lanes: {shared_mb:.0f} MB")
    print(f"private memory of each lane, beyond its own model: {private_mb} MB")


if __name__ == "__main__":
    main()
