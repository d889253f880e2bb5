from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

RAY_SETTINGS = {
    # A process that cannot start in a minute is killed and started again. On a busy machine all
    # of them need longer, and so none would ever start.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # Workers give way to all else by default. Beside other tests they would seldom run.
    "RAY_worker_niceness": "0",
    # An actor for each run that waits for a cloud to take its machines back.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # What only watches would take a fifth of a core: files of log, the machine's load, usage.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "60",
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Of every Ray that a test starts, in its own process or in another."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Keep small tensors off the thread pool, which is slow where cores are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ray_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Callable[[], Path]]:
    """Make temporary folders for Ray, whose sockets' paths may have no more than 107 bytes.

    Those of ``tmp_path_factory`` are too long where two processes run the tests.
    """
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="ray-")))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(ray_folder: Callable[[], Path]) -> Iterator[Path]:
    """A local Ray of six CPUs, in name; gives its folder."""
    import ray

    temporary = ray_folder()
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,  # ten processes, which take longer to start than a run
        _temp_dir=str(temporary),
        log_to_driver=False,
    )
    yield temporary
    ray.shutdown()


@functools.cache
def shares_ray(file: Path) -> bool:
    """Tell whether a file's tests use the one local Ray that a process of pytest starts."""
    return "ray_cluster" in file.read_text(encoding="utf-8")


@functools.cache
def starts_ray(file: Path) -> bool:
    """Tell whether a file's tests use that one, or start another."""
    return shares_ray(file) or "mark.ray" in file.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that two processes end at about the same time."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (
            not shares_ray(item.path),
            not starts_ray(item.path),
            item.path not in slow_files,
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """End the local Ray after the last of its tests: it would take a part of a core for long."""
    yield
    if shares_ray(item.path) and not (nextitem and shares_ray(nextitem.path)):
        import ray

        ray.shutdown()


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # which has no types for mypy
    """Shares tests out between processes by file; those with a Ray go to one, one after the other.

    Ray Train's controller is watched through the one Ray that is found on the machine: where there
    are two, it may be sought in the other, taken for dead, and its workers ended.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "Ray" if starts_ray(self.config.rootpath / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
