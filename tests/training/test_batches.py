from __future__ import annotations

import random
import warnings
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from ray_autolrs.training.batches import (
    StepBatches,
    take_samples,
    to_device,
    validation_subset,
)
from ray_autolrs.training.epoch_order import LARGEST_IN_MEMORY, epoch_order, permuted
from tests.training.toy import ToyTask, assert_same


class IndexTask(ToyTask):
    """Its samples are their own indices."""

    def train_dataset(self) -> Dataset[Any]:
        return TensorDataset(torch.arange(self.samples))


def batches(task: ToyTask, micro: int = 4, seed: int = 0) -> StepBatches:
    return StepBatches(task, micro_batch_size=micro, seed=seed)


def indices(source: StepBatches, steps: int) -> list[int]:
    return [
        int(index)
        for step in range(steps)
        for micro in range(source.micro_batches)
        for index in source.micro(step, micro)[0]
    ]


def test_a_batch_is_addressed_by_its_step_alone():
    source = batches(ToyTask(augment=True))
    addresses = [(step, micro) for step in range(5) for micro in range(4)]
    first = {address: source.micro(*address) for address in addresses}
    random.Random(1).shuffle(addresses)
    torch.rand(3), random.random()
    for address in addresses:
        assert_same(first[address], source.micro(*address))
    assert_same(
        first, {address: batches(ToyTask(augment=True)).micro(*address) for address in first}
    )


def test_augmentation_differs_between_places_and_seeds():
    task = ToyTask(augment=True, samples=16)
    one, other_seed = batches(task).micro(0, 0), batches(task, seed=1).micro(0, 0)
    assert not torch.equal(one[0], other_seed[0])
    # A set of one batch: every epoch shows the same samples, each time augmented anew.
    means = [
        torch.cat([batches(task).micro(step, m)[0] for m in range(4)]).mean() for step in (0, 1)
    ]
    assert means[0] != means[1]


@pytest.mark.parametrize(("samples", "batch"), [(48, 16), (50, 16), (16, 16), (31, 16)])
def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own(samples: int, batch: int):
    source = batches(IndexTask(samples=samples, global_batch_size=batch))
    read = indices(source, 3 * samples // batch + 1)
    epochs = [read[epoch * samples : (epoch + 1) * samples] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(samples))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != sorted(epochs[0])


def test_a_batch_over_the_end_of_an_epoch_is_full():
    source = batches(IndexTask(samples=18, global_batch_size=16), micro=16)
    straddling = source.micro(1, 0)[0].tolist()
    assert straddling[:2] == epoch_order(18, 0, 16, 2)
    assert straddling[2:] == epoch_order(18, 0, 18, 14)
    assert max(Counter(straddling).values()) <= 2


@pytest.mark.parametrize("size", [2, 3, 17, 1000, 1025])
def test_the_order_of_large_sets_has_every_sample_once(size: int):
    places = np.arange(size, dtype=np.uint64)
    assert sorted(permuted(places, size, 0, 0)) == list(range(size))


def test_the_order_of_large_sets_is_no_pattern():
    places = np.arange(2**14 + 1, dtype=np.uint64)
    order, next_epoch, other_seed = (
        np.array(permuted(places, len(places), seed, epoch))
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    )
    for one, other in [
        (order, places),
        (order, next_epoch),
        (order, other_seed),
        (order[1:], order[:-1]),
        (order % 2, places % 2),
    ]:
        # Of independent numbers, four standard deviations of a correlation.
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / len(places) ** 0.5


def test_a_large_set_is_read_in_that_order():
    size = LARGEST_IN_MEMORY + 1
    last = permuted(np.array([size - 2, size - 1], dtype=np.uint64), size, 7, 0)
    first = permuted(np.array([0, 1, 2], dtype=np.uint64), size, 7, 1)
    assert epoch_order(size, 7, size - 2, 5) == [*last, *first]


def test_micro_batches_cut_the_same_global_batch():
    task = IndexTask(samples=50)
    assert indices(batches(task, micro=16), 5) == indices(batches(task, micro=2), 5)


def test_a_stream_yields_the_addressed_micro_batches():
    source = batches(ToyTask(augment=True))
    streamed = list(source.stream(3, 2, range(1, 3)))
    assert len(streamed) == 2
    assert_same(streamed, [[source.micro(step, micro) for micro in (1, 2)] for step in (3, 4)])


# A machine with one core is told that two loader processes are many, and a process with threads
# (pytest-timeout's, for one) that a fork is risky.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks")
def test_loader_processes_change_nothing():
    alone = batches(ToyTask(augment=True))
    loaded = batches(ToyTask(augment=True, loader_workers=2))
    expected = list(alone.stream(0, 6, range(4)))
    assert_same(expected, list(loaded.stream(0, 6, range(4))))
    # Left early, with batches on their way, and opened again elsewhere.
    for _ in range(2):
        stream = loaded.stream(0, 6, range(4))
        assert_same(expected[0], next(stream))
        assert_same(expected[2:4], list(loaded.stream(2, 2, range(4))))
    assert_same([expected[5][1:3]], list(loaded.stream(5, 1, range(1, 3))))


def test_a_dataset_that_gives_many_samples_at_once_is_asked_once():
    class Batched(Dataset[int]):
        asked: list[list[int]]

        def __init__(self) -> None:
            self.asked = []

        def __getitems__(self, places: list[int]) -> list[int]:
            self.asked.append(places)
            return [10 * place for place in places]

    dataset = Batched()
    assert take_samples(dataset, [3, 1]) == [30, 10]
    assert dataset.asked == [[3, 1]]


@pytest.mark.parametrize("samples", [0, 15])
def test_a_training_set_smaller_than_a_batch_is_refused(samples: int):
    with pytest.raises(ValueError, match=f"has {samples} samples, fewer than global_batch_size=16"):
        batches(ToyTask(samples=samples))


def test_a_dataset_that_cannot_be_indexed_is_refused():
    class Endless(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter([1])

    class EndlessTask(ToyTask):
        def train_dataset(self) -> Dataset[Any]:
            return Endless()

    with pytest.raises(ValueError, match=r"train_dataset\(\) returned Endless.*map-style"):
        batches(EndlessTask())


def test_the_validation_subset_is_fixed_sorted_and_bounded():
    subset = validation_subset(100, 10, seed=0)
    assert subset == sorted(set(subset)) == validation_subset(100, 10, seed=0)
    assert len(subset) == 10
    assert subset != validation_subset(100, 10, seed=1)
    assert validation_subset(5, 10, seed=0) == [0, 1, 2, 3, 4]


class Pair(NamedTuple):
    left: Tensor
    right: Any


def test_containers_keep_their_type_on_the_way_to_a_device():
    # "meta" is a device that every machine has.
    meta = torch.device("meta")
    tensor = torch.ones(2)
    counted: defaultdict[str, Any] = defaultdict(list, {"a": tensor})
    batch = {
        "list": [tensor, "text", 3, None],
        "pair": Pair(tensor, (tensor, 1.5)),
        "ordered": OrderedDict(z=tensor, a=tensor),
        "default": counted,
    }
    moved = to_device(batch, meta)
    assert moved["list"][0].device == meta
    assert moved["list"][1:] == ["text", 3, None]
    assert type(moved["pair"]) is Pair
    assert moved["pair"].left.device == moved["pair"].right[0].device == meta
    assert type(moved["pair"].right) is tuple
    assert list(moved["ordered"]) == ["z", "a"]
    assert type(moved["ordered"]) is OrderedDict
    assert moved["default"]["a"].device == meta
    assert moved["default"]["new"] == []
    assert tensor.device.type == counted["a"].device.type == "cpu"  # the batch itself is left


def test_batches_with_a_device_of_their_own_move_themselves():
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device([packed], torch.device("cpu"))[0]
    assert type(moved) is type(packed)
    assert torch.equal(moved.batch_sizes, packed.batch_sizes)


def test_a_tokenizer_s_batch_is_moved():
    pytest.importorskip("transformers", reason="needs the extra transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what transformers imports
        from transformers import BatchEncoding

    batch = BatchEncoding({"input_ids": torch.ones(2, 3), "labels": torch.ones(2)})
    moved = to_device({"text": batch}, torch.device("meta"))["text"]
    assert type(moved) is BatchEncoding
    assert {value.device.type for value in moved.values()} == {"meta"}


class Moving:
    """A batch with a method ``to`` of its own."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Any:
        return Moving(self.x.to(device))


class MovingInPlace(Moving):
    def to(self, device: torch.device) -> Any:
        self.x = self.x.to(device)


class MovingAsTold(Moving):
    def to(self, device: torch.device, **options: bool) -> Any:
        assert options == {"non_blocking": True}
        return Moving(self.x.to(device, non_blocking=True))


@pytest.mark.parametrize("kind", [Moving, MovingInPlace, MovingAsTold])
def test_a_batch_is_moved_by_its_own_method(kind: Any):
    meta = torch.device("meta")
    batch = kind(torch.ones(2))
    assert to_device(batch, meta).x.device == meta
    assert to_device([kind(torch.ones(2))], meta)[0].x.device == meta
