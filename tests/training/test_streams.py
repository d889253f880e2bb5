"""Streams as training and validation data: what is read, kept, read again and refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.cluster.lanes.choice import possible_lane
from ray_autolrs.cluster.lanes.sequential import Sequential
from ray_autolrs.cluster.lanes.workers import Workers
from ray_autolrs.lanes import Lanes
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.epoch_order import epoch_order
from ray_autolrs.training.lr_sweep import lr_range_test
from ray_autolrs.training.streams import StreamBatches
from tests.training.toy import (
    AVERAGES,
    Augmented,
    ToyTask,
    assert_same,
    make_worker,
    points,
    silent,
    state_of,
)


class StreamTask(ToyTask):
    """Its ``stream`` makes the training data, ``val_stream`` the validation data."""

    stream: Callable[[], Any]
    val_stream: Callable[[], Any] | None = None

    def train_dataset(self) -> Any:
        return self.stream()

    def val_dataset(self) -> Any:
        return self.val_stream() if self.val_stream else super().val_dataset()


class Endless(IterableDataset[Any]):
    """Augmented samples, in an order of its own each epoch, drawn from the global generator."""

    def __iter__(self) -> Iterator[Any]:
        dataset = Augmented(50)
        yield from (dataset[index] for index in torch.randperm(50).tolist())


def shuffled() -> DataLoader[Any]:
    return DataLoader(Augmented(48), batch_size=16, shuffle=True)


def weighted() -> DataLoader[Any]:
    return DataLoader(points(48), 16, sampler=WeightedRandomSampler([1.0] * 48, 48))


def batches_of(task: ToyTask, size: int = 16) -> StreamBatches:
    return StreamBatches(task, task.train_dataset(), Solo(), micro_batch_size=size, seed=3)


@pytest.mark.parametrize("stream", [Endless, shuffled, weighted])
def test_the_same_is_read_again_in_any_epoch(stream: Callable[[], Any]) -> None:
    first = [batch for [batch] in batches_of(StreamTask(stream=stream)).stream(0, 8, range(1))]
    second = batches_of(StreamTask(stream=stream))
    second.go_on_from(None, 5)
    assert_same([batch for [batch] in second.stream(5, 3, range(1))], first[5:])
    assert len({float(batch[0].sum()) for batch in first}) == 8


def test_what_was_trained_on_is_dropped_and_read_again_if_it_must_be() -> None:
    batches = batches_of(StreamTask(stream=shuffled))
    batches.begin(0, 40, is_probe=True)
    probed = [batch for [batch] in batches.stream(0, 4, range(1))]
    assert len(batches._kept) == 4
    batches.begin(0, 40, is_probe=False)
    applied = [batch for [batch] in batches.stream(0, 40, range(1))]
    assert_same(applied[:4], probed)
    assert len(batches._kept) == 1
    batches.begin(0, 40, is_probe=False)
    assert_same([batch for [batch] in batches.stream(0, 40, range(1))], applied)


def test_a_probe_may_change_its_batch() -> None:
    batches = batches_of(StreamTask(stream=weighted))
    batches.begin(0, 2, is_probe=True)
    before = batches.micro(1, 0)
    batches.micro(1, 0)[0].zero_()
    assert_same(batches.micro(1, 0), before)


@pytest.mark.parametrize("stream", [Endless, shuffled])
def test_a_stage_that_diverged_is_applied_again_with_the_same_batches(
    stream: Callable[[], Any],
) -> None:
    def applied(lrs: list[float]) -> Any:
        worker = make_worker(StreamTask(stream=stream), AVERAGES["schedule_free"])
        worker.run_probe(Probe(1, 0, Segment(0, 4, 0.1)), silent)
        done = [
            worker.run_apply(Apply(1, Segment(0, 29, lr), attempt), silent)
            for attempt, lr in enumerate(lrs)
        ][-1]
        return done.training_losses, done.evaluations, state_of(worker.replica)

    assert_same(applied([math.inf, 0.1]), applied([0.1]))


def test_samples_and_augmentation_are_those_of_the_set_by_index() -> None:
    class InOrder(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            dataset = Augmented(50)
            return (dataset[index] for index in epoch_order(50, 3, 0, 9 * 16))

    by_index = StepBatches(ToyTask(augment=True), micro_batch_size=4, seed=3)
    stream = batches_of(StreamTask(stream=InOrder), size=4)
    for step in range(9):
        for micro in range(4):
            assert_same(stream.micro(step, micro), by_index.micro(step, micro))


def test_an_iterator_that_ends_or_was_read_is_refused() -> None:
    batches = [(x, y) for x, y in DataLoader(points(48), 16)]
    stream = iter(batches)
    reader = batches_of(StreamTask(stream=lambda: (batch for batch in batches)))
    with pytest.raises(ValueError, match=r"train_dataset\(\) ended after 3 batches of 16"):
        list(reader.stream(0, 4, range(1)))
    held = (batch for batch in stream)
    batches_of(StreamTask(stream=lambda: held)).micro(0, 0)
    with pytest.raises(ValueError, match=r"train_dataset\(\) returned a generator that was read"):
        batches_of(StreamTask(stream=lambda: held))


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda: (points(48)[n] for n in range(48)), "first batch of length 2 or 6; ready"),
        (lambda: DataLoader(points(48), 8), "first batch of length 2 or 8; ready .* 16 samples"),
        (lambda: DataLoader(points(0), 16), "without a batch"),
    ],
)
def test_what_are_no_ready_batches_is_refused(stream: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"StreamTask.train_dataset\(\) gave a .*{message}"):
        batches_of(StreamTask(stream=stream)).micro(0, 0)


def test_a_ray_data_shard_gives_batches_of_the_micro_batch() -> None:
    class Shard:
        def iter_torch_batches(self, *, batch_size: int) -> Any:
            return DataLoader(points(48), batch_size)

    batches = batches_of(StreamTask(stream=Shard), size=4)
    assert [len(y) for [x, y] in next(batches.stream(0, 1, range(4)))] == [4, 4, 4, 4]


def val_iterable() -> Iterator[Any]:
    return iter(list(DataLoader(points(21), 8)))


class ValSamples(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (points(21)[n] for n in range(21))


@pytest.mark.parametrize(
    "val_stream", [val_iterable, ValSamples, lambda: DataLoader(points(21), 8, shuffle=True)]
)
def test_a_validation_stream_is_judged_as_its_samples(val_stream: Callable[[], Any]) -> None:
    settings: dict[str, Any] = {"stream": weighted, "eval_batch_size": 8}
    worker = make_worker(StreamTask(val_stream=val_stream, **settings), probe_samples=9)
    expected = make_worker(StreamTask(**settings)).evaluation
    for _ in range(2):
        means = worker.evaluation.run(worker.replica, Solo(), with_metrics=True)
        whole = expected.run(worker.replica, Solo(), with_metrics=True)
        assert means == pytest.approx(whole, rel=1e-12)
    assert worker.probe_evaluation().samples in (13, 16)


def test_an_empty_validation_stream_is_refused() -> None:
    with pytest.raises(ValueError, match=r"val_dataset\(\) gave no batch"):
        make_worker(StreamTask(stream=weighted, val_stream=lambda: iter(())))


def test_the_range_test_is_that_of_the_same_batches() -> None:
    class Ready:
        def __iter__(self) -> Iterator[Any]:
            batches = StepBatches(ToyTask(), micro_batch_size=16, seed=0)
            return (batches.micro(step, 0) for step in range(200))

    found = lr_range_test(StreamTask(stream=Ready), steps=30)
    assert found == lr_range_test(ToyTask(), steps=30)


def test_lanes_of_one_worker_alone_are_refused() -> None:
    worker = make_worker(StreamTask(stream=weighted))
    module, batches = worker.replica.module, worker.engine.batches
    assert possible_lane(Workers(), Lanes(), module, batches) == Sequential()
    with pytest.raises(ValueError, match=r"lanes.kind='workers' .* train_dataset\(\) is a stream"):
        possible_lane(Workers(), Lanes(kind="workers"), module, batches)


def test_a_state_that_a_checkpoint_cannot_hold_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Endless):
        def state_dict(self) -> dict[str, Any]:
            return {"odd": Solo()}

        def load_state_dict(self, state: Any) -> None:
            raise AssertionError

    batches = batches_of(StreamTask(stream=Odd))
    batches.begin(0, 3, is_probe=False)
    with caplog.at_level(logging.WARNING):
        list(batches.stream(0, 5, range(1)))
    assert "the state_dict of StreamTask.train_dataset() is not used" in caplog.text
    assert batches.position(5) == {"place": 0, "epoch": 0, "state": None}


class Two:
    """Rank 0 of two workers that read the same."""

    rank, size = 0, 2

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


def test_workers_read_their_share_and_are_warned_if_they_read_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = StreamTask(stream=lambda: DataLoader(points(48), 8))
    group: Any = Two()
    batches = StreamBatches(task, task.train_dataset(), group, micro_batch_size=8, seed=0)
    with caplog.at_level(logging.WARNING):
        read: list[Tensor] = [x for [[x, y]] in batches.stream(0, 6, range(1))]
    assert_same(torch.cat(read), points(48).tensors[0])
    assert "all 2 workers read the same batches" in caplog.text
