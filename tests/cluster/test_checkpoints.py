"""Checkpoints within stages and searches, written in the background: whole runs in this process."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from ray.train import CheckpointConfig, RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Checkpoints, Validation
from ray_autolrs.cluster import checkpoint_writer
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, Place, places_to_keep
from ray_autolrs.cluster.checkpoint_times import CheckpointTimes, young_interval_s
from tests.cluster.interruption import written_at_once
from tests.cluster.tiny_runs import TinyTask, assert_same_run, checkpoints

LOOK_STEPS = 2
EVERY_STEPS = 6


def trainer(
    storage: Path, task: TinyTask, settings: Checkpoints | None = None, **run: Any
) -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(
            total_steps=100,
            lr=(1e-3, 0.3),
            divergence_check_steps=LOOK_STEPS,
            validation=Validation(every_steps=7),
            checkpoints=settings or Checkpoints(every_steps=EVERY_STEPS),
        ),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(storage), **run),
    )


def within(storage: Path) -> list[Path]:
    """The checkpoints within a stage, oldest first."""
    return sorted((storage / "run").glob("midstage_*"))


def ready(result: Any) -> list[dict[str, Any]]:
    return [event for event in result.events if event["kind"] == "ready"]


def probes(result: Any) -> list[tuple[int, int]]:
    return [(e["stage"], e["index"]) for e in result.events if e["kind"] == "probe"]


def reused(result: Any) -> int:
    return sum(event["reused_steps"] for event in result.events if event["kind"] == "apply")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that stores nothing within its stages, and the steps that it takes."""
    task = TinyTask()
    settings = Checkpoints(every_s=1e6)
    return trainer(tmp_path_factory.mktemp("storage"), task, settings).fit(), task.steps


@pytest.fixture
def _written_at_once():
    with written_at_once():
        yield


@pytest.mark.usefixtures("_written_at_once")
@pytest.mark.parametrize("breaks_after", [3, 9, 23, 33, 45, 70, 101, 128])
def test_a_run_that_broke_anywhere_goes_on_within_its_stage(undisturbed, tmp_path, breaks_after):
    result, steps = undisturbed
    broken, resumed = TinyTask(breaks_after), TinyTask()
    with pytest.raises(OSError, match="the power is gone"):
        trainer(tmp_path, broken).fit()
    again = trainer(tmp_path, resumed).fit()
    assert_same_run(again, result)
    assert probes(again) == probes(result)
    first, second = ready(again)
    assert first["step"] == 0
    assert second["step"] >= 0
    # What a stage would have gone on from, the end of its best probe, is not stored.
    lost_ends = reused(result) - reused(again)
    redone = broken.steps - 1 + resumed.steps - steps - lost_ends
    assert 0 <= redone <= EVERY_STEPS + LOOK_STEPS


@pytest.mark.usefixtures("_written_at_once")
def test_where_it_goes_on_is_told(tmp_path, caplog):
    with pytest.raises(OSError, match="the power is gone"):
        trainer(tmp_path, TinyTask(breaks_after=9)).fit()
    caplog.set_level(logging.INFO)
    result = trainer(tmp_path, TinyTask()).fit()
    second = ready(result)[1]
    assert second["begun"] == ["probe", 1, 0]
    assert 0 < second["done_steps"] < 9
    assert f"{second['done_steps']} steps into stage 1's probe 1" in caplog.text


def test_training_goes_on_while_a_checkpoint_is_written(undisturbed, tmp_path, monkeypatch):
    task, write, seen = TinyTask(), CheckpointStore.write, []

    def slow_write(self: CheckpointStore, place: Place, *rest: Any) -> None:
        if place == Place(0):
            before, deadline_s = task.steps, time.monotonic() + 30
            while task.steps < before + 10 and time.monotonic() < deadline_s:
                time.sleep(0.001)
            seen.append(task.steps - before)
        write(self, place, *rest)

    monkeypatch.setattr(CheckpointStore, "write", slow_write)
    assert_same_run(trainer(tmp_path, task).fit(), undisturbed[0])
    assert seen[0] >= 10


class FullDisk:
    """The storage is full half-way through a write.

    Args:
        patch: for as long as checkpoints go there.
        room: bytes that fit before.
        times: how often it is, before there is room again.
    """

    def __init__(self, patch: pytest.MonkeyPatch, room: int, times: int) -> None:
        self.left, self.times = room, times
        opened = CheckpointStore._opened

        def limited(store: CheckpointStore, path: str) -> Limited:
            return Limited(self, opened(store, path))

        patch.setattr(CheckpointStore, "_opened", limited)
        patch.setattr(checkpoint_writer, "RETRY_WAITS_S", (0.01, 0.01))


class Limited:
    """A file on it."""

    def __init__(self, disk: FullDisk, file: Any) -> None:
        self.disk, self.file = disk, file

    def __enter__(self) -> Limited:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        self.disk.left -= len(data)
        if self.disk.left < 0 and self.disk.times > 0:
            self.disk.times -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(data)


@pytest.mark.parametrize("room", [3000, 40_000])
def test_a_disk_that_was_full_for_a_while_costs_no_more_than_a_warning(
    undisturbed, tmp_path, monkeypatch, caplog, room
):
    FullDisk(monkeypatch, room, times=2)
    result = trainer(tmp_path, TinyTask()).fit()
    assert caplog.text.count("No space left on device; older ones stay") == 2
    assert_same_run(result, undisturbed[0])
    assert not list((tmp_path / "run").glob("*tmp*"))


def test_a_disk_that_stays_full_ends_the_run_which_then_goes_on(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        FullDisk(patch, room=30_000, times=10**9)
        with pytest.raises(OSError, match="No space left on device"):
            trainer(tmp_path, TinyTask()).fit()
    assert_same_run(trainer(tmp_path, TinyTask()).fit(), undisturbed[0])


@pytest.mark.usefixtures("_written_at_once")
def test_a_damaged_newest_one_within_a_stage_is_named_and_the_one_before_taken(
    undisturbed, tmp_path, caplog
):
    with pytest.raises(OSError, match="the power is gone"):
        trainer(tmp_path, TinyTask(breaks_after=128)).fit()
    older, newest = within(tmp_path)
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    result = trainer(tmp_path, TinyTask()).fit()
    assert f"{newest}: its state.pt has" in caplog.text
    assert str(older) not in caplog.text
    assert ready(result)[1]["done_steps"] > 0
    assert_same_run(result, undisturbed[0])


def test_results_of_a_stage_whose_checkpoint_is_lost_are_not_asked_for_again(undisturbed, tmp_path):
    """As where the process is killed while the stage's checkpoint is still being written."""
    with pytest.raises(OSError, match="the power is gone"):
        trainer(tmp_path, TinyTask(breaks_after=110)).fit()
    newest = checkpoints(tmp_path)[-1]
    for path in (newest, *within(tmp_path)):
        shutil.rmtree(path)
    result = trainer(tmp_path, TinyTask()).fit()
    assert_same_run(result, undisturbed[0])
    assert len(probes(result)) == len(set(probes(result)))


@pytest.mark.usefixtures("_written_at_once")
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_no_more_stay_than_were_asked_for(tmp_path, monkeypatch, keep):
    write, most = CheckpointStore.write, 0

    def counting_write(self: CheckpointStore, *what: Any) -> None:
        nonlocal most
        write(self, *what)
        newest = self.places()[-keep:]
        assert {*self.places()} == {*newest, *(place.start for place in newest)}
        most = max(most, len(self.places()))

    monkeypatch.setattr(CheckpointStore, "write", counting_write)
    trainer(tmp_path, TinyTask(), Checkpoints(every_steps=EVERY_STEPS, keep=keep)).fit()
    assert keep < most <= 2 * keep


def test_the_one_of_the_lowest_validation_loss_stays(tmp_path, monkeypatch):
    losses: dict[Place, float] = {}
    write = CheckpointStore.write

    def noting_write(
        self: CheckpointStore, place: Place, files: Any, told: Any, *rest: Any
    ) -> None:
        losses[place] = told.get("validation_loss", math.inf)
        write(self, place, files, told, *rest)
        assert min(losses, key=losses.__getitem__) in self.places()

    monkeypatch.setattr(CheckpointStore, "write", noting_write)
    settings = Checkpoints(every_s=1e6, keep=1, best=True)
    trainer(tmp_path, TinyTask(), settings).fit()
    assert [place for place in losses if place.number > 0 and math.isfinite(losses[place])]


def test_two_numbers_for_one_thing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"keep=3 and CheckpointConfig\(num_to_keep=1\) say"):
        trainer(
            tmp_path,
            TinyTask(),
            Checkpoints(keep=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ).fit()


def test_the_interval_is_young_s_where_none_is_given(caplog):
    caplog.set_level(logging.INFO)
    times = CheckpointTimes(Checkpoints(failures_per_day=4), now_s=0.0)
    assert not times.is_due(1e9, steps=1)
    times.begun(0.0)
    for _ in range(3):
        times.written(3.0)
    assert times.interval_s == young_interval_s(3.0, 4) == math.sqrt(2 * 3.0 * 21_600)
    assert caplog.text.count("every 360 s: writing it takes 3 s, and 4 failures a day") == 1
    assert not times.is_due(359.0, steps=1)
    assert times.is_due(361.0, steps=1)


def test_whichever_comes_first_is_due():
    times = CheckpointTimes(Checkpoints(every_s=10, every_steps=7), now_s=0.0)
    assert not times.is_due(1.0, steps=6)
    assert times.is_due(2.0, steps=1)
    times.begun(2.0)
    assert not times.is_due(11.0, steps=1)
    assert times.is_due(12.0, steps=1)
    times.written(100.0)
    assert times.interval_s == 10


def test_a_start_that_the_newest_needs_stays():
    places = [Place(0), Place(0, 1), Place(40), Place(80), Place(80, 2)]
    assert places_to_keep(places, 1, best=Place(0, 1)) == {Place(80), Place(80, 2), Place(0, 1)}
