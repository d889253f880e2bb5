"""What find_lr reads, and hands back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ray_autolrs import Bracket
from tests.digits_task import DigitsTask
from tests.training.live import Loop
from tests.training.toy import assert_same


def test_the_batches_are_handed_back_and_none_is_lost():
    loop = Loop()
    expected = list(itertools.islice(Loop().train_batches(), 200))
    stream = loop.train_batches()
    found = loop.find(train_batches=stream)
    assert loop.read == found.costs.batches == len(found.batches_read) == 2 * 19
    assert_same(list(found.batches_read), expected[:38])
    assert_same(list(itertools.islice(found.batches, 200)), expected)
    assert found.costs.kept_bytes == sum(x.nbytes + y.nbytes for x, y in expected[:38])


def test_a_loss_may_change_its_batch():
    class Popping(DigitsTask):
        def loss(self, model, batch):
            labels = batch.pop()
            batch[0].mul_(0.5)
            return nn.functional.cross_entropy(model(batch[0]), labels)

    class Careful(DigitsTask):
        def loss(self, model, batch):
            return super().loss(model, [batch[0] * 0.5, batch[1]])

    found, expected = Loop(Popping()).find(), Loop(Careful()).find()
    assert found.table.drop(columns="wall_s").equals(expected.table.drop(columns="wall_s"))
    assert_same(list(found.batches_read), list(expected.batches_read))


class Stream(IterableDataset):
    """Gives each number once, whoever asks."""

    def __init__(self) -> None:
        self.numbers = iter(range(10_000))

    def __iter__(self):
        for number in self.numbers:
            x = torch.full((64,), number / 10_000, dtype=torch.float64) + torch.randn(64) * 0.1
            yield x, number % 10


@pytest.mark.parametrize("validates", [True, False])
def test_a_streamed_dataset(validates):
    loop = Loop()
    loader = DataLoader(Stream(), batch_size=16)
    val = {"val_batches": loop.val_batches} if validates else {"val_batches": None}
    found = loop.find(train_batches=loader, accumulation=1, validation_samples=64, **val)
    assert found.costs.batches == 19 + (0 if validates else 4)
    labels = [label for _, batch in itertools.islice(found.batches, 40) for label in batch.tolist()]
    assert labels == [number % 10 for number in range(640)]


def test_a_shuffled_loader_gives_the_loop_the_same_batches_as_without_the_search():
    def labels(with_search, generator):
        torch.manual_seed(5)
        loop = Loop()
        data: Any = loop.task.train_dataset()
        loader = DataLoader(data, batch_size=32, shuffle=True, generator=generator)
        if with_search:
            found = loop.find(train_batches=loader, accumulation=1)
            first = [batch[1].tolist() for batch in found.batches_read]
            # More steps than batches: the next epoch's follow.
            assert len(first) == 19
            epoch = sorted(label for labels in first[:13] for label in labels)
            assert epoch == sorted(DigitsTask().train_dataset().tensors[1].tolist())
        return [batch[1].tolist() for batch in loader]

    assert labels(True, None) == labels(False, None)
    own = torch.Generator().manual_seed(7)
    assert labels(True, own) == labels(False, torch.Generator().manual_seed(7))


def test_batches_that_end_too_early():
    loop = Loop()
    few = itertools.islice(loop.train_batches(), 20)
    with pytest.raises(ValueError, match=r"ended after 20 batches, and the search needs 38"):
        loop.find(train_batches=few)
    # What can be iterated again is: as many epochs as it takes.
    again = loop.find(train_batches=list(itertools.islice(loop.train_batches(), 20)))
    assert again.costs.batches == 38
    fewer = loop.find(
        train_batches=itertools.islice(loop.train_batches(), 40), search=Bracket(probe_steps=10)
    )
    assert fewer.costs.batches == 30
