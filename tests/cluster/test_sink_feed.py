from __future__ import annotations

import io
import logging
import sys
import time

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.cluster.sink_feed import SinkFeed
from ray_autolrs.sinks.log import LogSink
from ray_autolrs.sinks.progress_bar import ProgressBar
from ray_autolrs.sinks.sink import Sink, Status

READY = {"kind": "ready", "step": 0}
WARMED_UP = {
    "kind": "apply",
    "stage": 0,
    "segment": Segment(0, 99, 0.1).to_dict(),
    "diverged": False,
    "steps": 100,
    "reused_steps": 0,
    "wall_s": 1.0,
    "evaluations": [],
    "training_losses": [1.0] * 100,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def follow(poll, until, *sinks):
    """Tell of a run until ``until()`` holds."""
    with SinkFeed(poll, 400, [LogSink(), ProgressBar(), *sinks], interval_s=0.01):
        deadline = time.monotonic() + 10
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def scripted(records, status):
    """A poll that tells nothing at first, then all records at once."""
    polls = []

    def poll(first):
        polls.append(first)
        known = records if len(polls) > 1 else []
        return known[first:], status

    return poll, polls


def test_terminal_shows_a_bar_with_stage_lr_and_loss(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    status = Status(Apply(1, Segment(100, 199, 0.25)), steps_done=50, loss=0.625)
    poll, polls = scripted([READY, WARMED_UP], status)
    follow(poll, lambda: len(polls) > 4)
    shown = terminal.getvalue()
    assert "150/400" in shown
    assert "stage 1 apply lr 0.25 loss 0.625" in shown


def test_without_a_terminal_each_decision_is_one_line(caplog, capsys):
    poll, polls = scripted([READY, WARMED_UP], Status())
    with caplog.at_level(logging.INFO):
        follow(poll, lambda: len(polls) > 4)
    assert caplog.messages == [
        "workers ready at step 0",
        "warm-up: applied, training loss 1; validation ",
    ]
    assert capsys.readouterr().err == ""
    assert set(polls[3:]) == {2}


def test_decisions_of_an_earlier_session_are_not_told_again(caplog):
    polls = []

    def poll(first):
        polls.append(first)
        return [READY][first:], Status()

    with caplog.at_level(logging.INFO):
        follow(poll, lambda: len(polls) > 3)
    assert caplog.messages == []


def test_lost_connection_does_not_end_the_display():
    polls = []

    def poll(first):
        polls.append(first)
        if len(polls) == 2:
            raise ConnectionError("gone")
        return [], Status()

    follow(poll, lambda: len(polls) > 4)
    assert len(polls) > 4


class Notes(Sink):
    """Notes what it is told; raises at a record if it is to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.told: list[object] = []

    def start(self, past, total_steps):
        self.told.append((len(past), total_steps))

    def record(self, record):
        if self.fails:
            raise ConnectionError("no such service")
        self.told.append(record["kind"])

    def progress(self, status):
        self.told.append(status.steps_done)

    def close(self):
        self.told.append("closed")


def test_sinks_are_told_in_order_and_one_that_raises_is_told_nothing_more(caplog):
    poll, polls = scripted([READY, WARMED_UP], Status(steps_done=7))
    sound, failing = Notes(), Notes(fails=True)
    follow(poll, lambda: len(polls) > 3, failing, sound)
    assert failing.told == [(0, 400)]
    assert caplog.text.count("Notes failed, and is told nothing more") == 1
    assert sound.told[:4] == [(0, 400), "ready", "apply", 7]
    assert sound.told[-2:] == [7, "closed"]
