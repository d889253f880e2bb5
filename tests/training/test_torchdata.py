"""torchdata's StatefulDataLoader: as the stream of a task, and as what find_lr reads."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.streams import StreamBatches, training_batches
from tests.training.live import Loop
from tests.training.test_streams import StreamTask
from tests.training.toy import Augmented, assert_same, points

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchdata: Any = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is in the extra `test` only"
    )

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


class Counted(IterableDataset[Any]):
    """Numbered samples, once; the loader's state has this one's within it."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Any:
        data = points(48)
        while True:
            self.place += 1
            yield data[(self.place - 1) % 48]

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def shuffled() -> Any:
    return torchdata.StatefulDataLoader(Augmented(48), batch_size=16, shuffle=True)


def streamed() -> Any:
    return torchdata.StatefulDataLoader(Counted(), batch_size=16)


def batches_of(stream: Any) -> StreamBatches:
    task = StreamTask(stream=stream)
    batches = training_batches(task, Solo(), micro_batch_size=16, seed=3, pin_memory=False)
    assert isinstance(batches, StreamBatches)
    return batches


@pytest.mark.parametrize("stream", [shuffled, streamed])
def test_a_run_that_goes_on_reads_what_would_have_followed(stream, caplog):
    whole = [batch for [batch] in batches_of(stream).stream(0, 8, range(1))]
    torch.manual_seed(99)  # another process has other numbers
    first = batches_of(stream)
    first.begin(0, 5, is_probe=False)
    assert_same([batch for [batch] in first.stream(0, 6, range(1))], whole[:6])
    position = first.position(5)
    assert position["state"] is not None
    torch.manual_seed(7)
    second = batches_of(stream)
    with caplog.at_level("INFO"):
        second.go_on_from(position, 5)
        assert_same([batch for [batch] in second.stream(5, 3, range(1))], whole[5:])
    assert "read on from its state_dict; 0 batches are read and left out" in caplog.text
    # A stage that is applied again reads what it has let go of.
    assert_same([batch for [batch] in second.stream(5, 3, range(1))], whole[5:])


@pytest.mark.parametrize("stream", [shuffled, streamed])
def test_a_run_without_a_position_reads_from_the_beginning(stream):
    whole = [batch for [batch] in batches_of(stream).stream(0, 8, range(1))]
    torch.manual_seed(99)
    again = batches_of(stream)
    again.go_on_from(None, 5)
    assert_same([batch for [batch] in again.stream(5, 3, range(1))], whole[5:])


@pytest.mark.parametrize("shuffle", [False, True])
def test_find_lr_leaves_a_loader_where_it_was_put(shuffle):
    def loader() -> Any:
        torch.manual_seed(4)
        data: Any = Loop().task.train_dataset()
        return torchdata.StatefulDataLoader(data, batch_size=32, shuffle=shuffle)

    before = loader()
    rest = iter(before)
    for _ in range(5):
        next(rest)
    state = before.state_dict()
    expected = [batch[1].tolist() for batch in rest]
    resumed = loader()
    resumed.load_state_dict(state)
    found = Loop().find(train_batches=resumed, accumulation=1)
    # What follows is searched on, and then trained on.
    assert [batch[1].tolist() for batch in found.batches_read[:8]] == expected
    assert [batch[1].tolist() for batch in resumed] == expected
    assert len([*resumed]) == 13


def test_find_lr_hands_a_stream_back_and_its_loader_tells_where_it_is():
    data: Any = Loop().task.train_dataset()

    class Digits(Counted):
        def __iter__(self) -> Any:
            while True:
                self.place += 1
                yield data[(self.place - 1) % 400]

    loader = torchdata.StatefulDataLoader(Digits(), batch_size=32)
    found = Loop().find(train_batches=loader, accumulation=1)
    read = itertools.islice(found.batches, 25)
    labels = [label for batch in read for label in batch[1].tolist()]
    assert labels == [int(data[place % 400][1]) for place in range(800)]
    assert "{'place': 800}" in str(loader.state_dict())
