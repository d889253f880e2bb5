"""Which batches AutoLRSCallback searches on, and which ones the Trainer gets afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integrations.tiny_trainer import (
    STEPS,
    OnePass,
    Seen,
    Text,
    language_model,
    searched,
    trainer_of,
)
from tests.training.toy import assert_same


def test_items_in_a_batch_are_counted_as_the_trainer_does(tmp_path):
    trainer = trainer_of(tmp_path, Text(ragged=True), gradient_accumulation_steps=2)
    callback = searched(trainer, averaging=None)
    trainer.train()
    assert callback.found is not None
    batches = [batch["labels"] for batch in callback.found.batches_read[2:4]]
    model = language_model()
    losses: list[float] = []
    for labels in batches:
        full = torch.nn.functional.cross_entropy(
            model(callback.found.batches_read[2 + len(losses)]["input_ids"]).logits[:, :-1].mT,
            labels[:, 1:],
            reduction="sum",
        )
        losses.append(full.item())
    items = sum(int(labels[:, 1:].ne(-100).sum()) for labels in batches)
    first = callback.found.probes[0].training_losses[0]
    assert first == pytest.approx(sum(losses) / items, rel=1e-6)
    assert first != pytest.approx(
        sum(
            loss / int(labels[:, 1:].ne(-100).sum())
            for loss, labels in zip(losses, batches, strict=True)
        )
        / 2,
        rel=1e-6,
    )


def test_a_stream_loses_no_batch(tmp_path):
    trainer = trainer_of(tmp_path, OnePass())
    seen = Seen(trainer)
    callback = searched(trainer)
    trainer.train()
    assert callback.found.costs.batches > 4
    expected = [Text()[place % 64]["input_ids"] for place in range(4 * STEPS)]
    assert_same(torch.cat(seen.firsts[-STEPS:]), torch.stack(expected))


def test_epochs_that_are_searched_are_trained_on_as_without_a_search(tmp_path):
    settings: dict[str, Any] = {
        "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 16,
    }  # fmt: skip
    trainer = trainer_of(tmp_path, **settings)
    seen = Seen(trainer)
    callback = searched(trainer, averaging=None)
    trainer.add_callback(seen)
    trainer.train()
    assert callback.found is not None
    assert callback.found.costs.batches > 4  # an epoch has four
    other = trainer_of(tmp_path, learning_rate=callback.found.lr, **settings)
    alike = Seen(other)
    other.add_callback(alike)
    other.train()
    assert_same(seen.firsts[-8:], alike.firsts[-8:])
    assert_same(trainer.model.state_dict(), other.model.state_dict())
