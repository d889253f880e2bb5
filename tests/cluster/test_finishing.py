"""How a run without a known end is ended. No Ray is started."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import WSD, AutoLRSConfig, AutoLRSTrainer, Bracket, Constant, Stages, Warmup
from ray_autolrs.cluster import finishing
from ray_autolrs.cluster.finishing import FinishRelay, finish_on_signal
from ray_autolrs.cluster.search_actor import SearchActor
from tests.cluster.waiting import within
from tests.digits_task import DigitsTask

CONFIG = AutoLRSConfig(
    total_steps=None,
    lr=(1e-3, 1.0),
    warmup=Warmup(steps=10),
    stages=Stages(first_steps=40, longest_steps=80),
    search=Bracket(probe_steps=8),
)


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "POLL_INTERVAL_S", 0.01)


# The relay --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_early", [True, False])
def test_a_request_is_passed_on_once_while_the_run_goes_on(is_early: bool):
    requested, told = threading.Event(), []
    if is_early:
        requested.set()
    with FinishRelay(requested, lambda: told.append(threading.current_thread().name)):
        time.sleep(0.05)
        assert len(told) == int(is_early)
        requested.set()
        assert within(10, lambda: len(told) == 1)
        requested.set()
        time.sleep(0.05)
    assert told == ["autolrs-finish"]


def test_without_a_request_nothing_is_told_and_the_thread_ends():
    requested, told = threading.Event(), []
    with FinishRelay(requested, lambda: told.append(1)):
        time.sleep(0.03)
    assert "autolrs-finish" not in {thread.name for thread in threading.enumerate()}
    requested.set()  # after the run
    time.sleep(0.05)
    assert told == []


def test_the_thread_ends_with_a_run_that_fails():
    with pytest.raises(KeyError), FinishRelay(threading.Event(), lambda: None):
        raise KeyError
    assert "autolrs-finish" not in {thread.name for thread in threading.enumerate()}


# The signal -------------------------------------------------------------------------------


def test_the_signal_is_a_request_and_the_handler_goes_again():
    heard: list[int] = []
    outside = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        before = signal.getsignal(signal.SIGUSR1)
        requested = threading.Event()
        with finish_on_signal(requested):
            assert not requested.is_set()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert requested.wait(10)
        assert heard == []
        assert signal.getsignal(signal.SIGUSR1) is before
        with pytest.raises(KeyError), finish_on_signal(threading.Event()):
            raise KeyError
        assert signal.getsignal(signal.SIGUSR1) is before
        os.kill(os.getpid(), signal.SIGUSR1)
        assert within(10, lambda: heard == [signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, outside)


def test_another_thread_cannot_listen_and_trains_all_the_same():
    before, seen = signal.getsignal(signal.SIGUSR1), []

    def listen() -> None:
        with finish_on_signal(threading.Event()):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


# Whole runs -------------------------------------------------------------------------------


def trainer(path: Path, config: AutoLRSConfig = CONFIG) -> AutoLRSTrainer:
    return AutoLRSTrainer(
        DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(path)),
    )


def call_in_stage(monkeypatch: pytest.MonkeyPatch, stage: int, call: Callable[[], None]) -> None:
    """Let a thread of its own call something when a stage has been ordered, and wait for it."""
    exchange, orders = SearchActor.exchange, [0]

    def watched(self: SearchActor, event: Any) -> Any:
        command = exchange(self, event)
        if getattr(command, "stage", None) == stage and orders[0] == 0:
            orders[0] = 1
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            # The relay takes a moment: without it, the stage could be over.
            assert within(10, lambda: self._state.ending is not None)
        return command

    monkeypatch.setattr(SearchActor, "exchange", watched)


def segments(result: Any) -> list[tuple[int, int]]:
    return [(segment.first_step, segment.last_step) for segment in result.schedule.segments]


@pytest.mark.parametrize(
    ("shape", "stage", "expected"),
    [
        (Constant(), 1, [(0, 39)]),
        (Constant(), 3, [(0, 39), (40, 119), (120, 199)]),
        # 30% of the finished run is the fall: 86 of 286 steps.
        (WSD(), 3, [(0, 39), (40, 119), (120, 199), (200, 285)]),
    ],
)
def test_a_run_without_an_end_ends_after_finish(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: Any,
    stage: int,
    expected: list[tuple[int, int]],
):
    run = trainer(tmp_path, dataclasses.replace(CONFIG, shape=shape))
    call_in_stage(monkeypatch, stage, run.finish)
    result = run.fit()
    assert segments(result) == expected
    found = {segment.peak_lr for segment in result.schedule.segments}
    assert len(found) == 1
    (lr,) = found
    last = expected[-1][1]
    assert result.schedule.lr_at(39) == lr
    assert result.schedule.lr_at(last) == pytest.approx(lr / 86 if shape == WSD() else lr)
    assert [event["kind"] for event in result.events].count("finish_requested") == 1
    assert result.costs.apply_steps == last + 1
    # A run that has ended gives its result again.
    assert trainer(tmp_path, dataclasses.replace(CONFIG, shape=shape)).fit().events == result.events


def test_the_signal_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = trainer(tmp_path)
    call_in_stage(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    before = signal.getsignal(signal.SIGUSR1)
    assert segments(run.fit()) == [(0, 39), (40, 119)]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_request_before_the_run_ends_it_after_one_stage(tmp_path: Path):
    run = trainer(tmp_path)
    run.finish()
    assert segments(run.fit()) == [(0, 39)]


def test_a_run_with_an_end_keeps_it(tmp_path: Path):
    run = trainer(tmp_path, dataclasses.replace(CONFIG, total_steps=100))
    run.finish()
    assert segments(run.fit())[-1][1] == 99


class KilledError(Exception):
    """Stands for the death of the process."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that falls, and is asked to finish in its second stage."""
    whole = trainer(tmp_path_factory.mktemp("whole"), dataclasses.replace(CONFIG, shape=WSD()))
    with pytest.MonkeyPatch.context() as patch:
        call_in_stage(patch, 2, whole.finish)
        return whole.fit()


@pytest.mark.parametrize("answers", [1, 2])
def test_a_run_that_was_killed_keeps_the_request(
    expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int
):
    """Killed with the first answer after the request, the stage before is not saved yet."""
    config = dataclasses.replace(CONFIG, shape=WSD())
    run = trainer(tmp_path, config)
    with monkeypatch.context() as patch:
        call_in_stage(patch, 2, run.finish)
        watched, left = SearchActor.exchange, [answers]

        def killed(self: SearchActor, event: Any) -> Any:
            command = watched(self, event)
            if self._state.ending:
                left[0] -= 1
                if left[0] == 0:
                    raise KilledError
            return command

        patch.setattr(SearchActor, "exchange", killed)
        with pytest.raises(KilledError):
            run.fit()
    result = trainer(tmp_path, config).fit()  # nobody asks again
    assert [event["kind"] for event in result.events].count("finish_requested") == 1
    assert result.schedule == expected.schedule
    assert result.metrics == expected.metrics
    with result.checkpoint.as_directory() as one, expected.checkpoint.as_directory() as other:
        model, wanted = (torch.load(f"{folder}/model.pt") for folder in (one, other))
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)
