"""A process that is told to end, or whose node is drained, stores the state first. No Ray."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Checkpoints
from ray_autolrs.cluster import departure, drains
from ray_autolrs.cluster.checkpoint_store import ON_NOTICE
from ray_autolrs.cluster.departure import StoredFirst, stored_before_sigterm, stored_on_notice
from ray_autolrs.cluster.drains import DrainWatch, draining_nodes
from ray_autolrs.cluster.run_folder import RunFolder
from tests.cluster.tiny_runs import TinyTask, assert_same_run
from tests.cluster.waiting import within

SIGNAL_AFTER = 80
"""Training steps: the search is over by then, and the applied stage has begun."""


class ToldError(Exception):
    """What this process did at SIGTERM before a run came along."""


class Terminated(TinyTask):
    """Its process gets SIGTERM after some training steps, each of which takes a while."""

    def loss(self, model, batch):
        if self.steps == self.breaks_after:
            os.kill(os.getpid(), signal.SIGTERM)
            self.breaks_after = None
        time.sleep(0.01)
        return super().loss(model, batch)


@pytest.fixture(autouse=True)
def own_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """SIGTERM raises ``ToldError``; waits are short."""

    def tell(number: int, frame: Any) -> None:
        raise ToldError

    monkeypatch.setattr(departure, "POLL_S", 0.01)
    before = signal.signal(signal.SIGTERM, tell)
    yield tell
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path), "run")


def trainer(storage: Path, task: TinyTask) -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(
            total_steps=100,
            lr=(1e-3, 0.3),
            divergence_check_steps=2,
            checkpoints=Checkpoints(every_s=1e6),
        ),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(storage)),
    )


def test_sigterm_stores_the_state_and_then_does_what_it_did(tmp_path, own_handler):
    expected_task, told = TinyTask(), Terminated(breaks_after=SIGNAL_AFTER)
    expected = trainer(tmp_path / "left alone", expected_task).fit()
    with pytest.raises(ToldError):
        trainer(tmp_path, told).fit()
    assert signal.getsignal(signal.SIGTERM) is own_handler
    assert not {thread.name for thread in threading.enumerate()} & {"autolrs-departure"}
    (name,) = stored_on_notice(RunFolder(str(tmp_path), "run"))[-1:]
    stored = json.loads((tmp_path / "run" / name / "manifest.json").read_text())
    assert stored[ON_NOTICE] is True
    resumed = TinyTask()
    result = trainer(tmp_path, resumed).fit()
    assert_same_run(result, expected)
    # None that was taken before the signal is taken again; the first loss may be checked again.
    assert resumed.steps <= expected_task.steps - SIGNAL_AFTER + 2


def told_to_end(folder: RunFolder, ask: Callable[[], None], *waits_s: float) -> None:
    """Get SIGTERM, again after each wait but the last, with nobody who stores anything."""
    with stored_before_sigterm(folder, ask):
        for wait_s in waits_s:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(wait_s)


def test_a_process_whose_state_cannot_be_stored_ends_after_its_grace(folder, monkeypatch):
    monkeypatch.setattr(departure, "GRACE_S", 0.1)
    asked: list[int] = []
    started_s = time.monotonic()
    with pytest.raises(ToldError):
        told_to_end(folder, lambda: asked.append(1), 20)
    assert 0.1 <= time.monotonic() - started_s < 10
    assert asked == [1]


def test_a_search_actor_that_is_gone_keeps_nobody(folder):
    def gone() -> None:
        raise TimeoutError("no answer")

    with pytest.raises(ToldError):
        told_to_end(folder, gone, 20)


def test_a_second_signal_does_not_wait(folder):
    with pytest.raises(ToldError):
        told_to_end(folder, lambda: None, 0.05, 20)


def test_a_run_that_ends_first_leaves_the_signal_to_the_former_handler(folder, own_handler):
    with pytest.raises(ToldError):
        told_to_end(folder, lambda: None, 0.05)
    assert signal.getsignal(signal.SIGTERM) is own_handler


def test_a_process_that_ignores_the_signal_still_does(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = StoredFirst(folder, lambda: None)
    listener.install()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    listener.remove()


# Drained nodes ----------------------------------------------------------------------------


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    nodes: dict[str, int] = {}
    state = SimpleNamespace(get_draining_nodes=lambda: dict(nodes))
    monkeypatch.setattr(
        drains, "ray", SimpleNamespace(_private=SimpleNamespace(state=SimpleNamespace(state=state)))
    )
    monkeypatch.setattr(drains, "POLL_S", 0.01)
    return nodes


def test_only_drains_of_the_runs_own_nodes_are_seen(draining):
    with DrainWatch(["a", "b"]) as watch:
        draining["c"] = 1
        time.sleep(0.05)
        assert not watch.sees_drain()
        draining["b"] = 1
        assert within(10, watch.sees_drain)
        del draining["b"]
        assert within(10, lambda: not watch.sees_drain())


def test_a_ray_that_does_not_tell_drains_nothing(monkeypatch):
    monkeypatch.setattr(drains, "ray", SimpleNamespace())
    assert draining_nodes() == {}
