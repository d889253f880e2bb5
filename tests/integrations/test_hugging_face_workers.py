"""AutoLRSCallback in two processes over gloo, as torchrun starts them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from ray_autolrs.integrations.hugging_face import AutoLRSCallback
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.data_parallel import shards_of
from ray_autolrs.training.found_lr import FoundLR
from tests.integrations.tiny_trainer import SHORT, Seen, trainer_of
from tests.training.processes import start_workers


def train(group: Group) -> dict[str, Any]:
    places = {"RANK": group.rank, "LOCAL_RANK": group.rank, "WORLD_SIZE": group.size}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    folder = Path(os.environ["AUTOLRS_TEST_FOLDER"])
    trainer = trainer_of(
        folder, per_device_train_batch_size=2, gradient_accumulation_steps=2, ddp_backend="gloo"
    )
    callback = AutoLRSCallback(trainer, **SHORT)
    trainer.add_callback(callback)
    seen = Seen(trainer)
    trainer.add_callback(seen)
    trainer.train()
    assert callback.found is not None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    plain, sharded = plain_lr(folder, is_sharded=False), plain_lr(folder, is_sharded=True)
    return {
        "plain": plain,
        "sharded": sharded,
        "lr": callback.found.lr,
        "first": callback.found.probes[0].training_losses[0],
        "lrs": seen.lrs,
        "losses": losses,
        "weights": trainer.model.state_dict(),
        "world": trainer.args.world_size,
    }


def plain_lr(folder: Path, *, is_sharded: bool) -> FoundLR:
    """Search without an average: under DDP, or sharded by accelerate's own FSDP2."""
    plan = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    sharding = {"fsdp": True, "fsdp_config": plan} if is_sharded else {}
    trainer = trainer_of(
        folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        ddp_backend="gloo",
        **sharding,
    )
    if is_sharded:
        shard_on_cpu(trainer)
        with pytest.raises(ValueError, match=r"FSDP2, whose checkpoints .* averaging=None"):
            AutoLRSCallback(trainer)
    callback = AutoLRSCallback(trainer, averaging=None, **SHORT)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.found is not None
    model: Any = trainer.model
    assert bool(shards_of(model)) == is_sharded
    return replace(callback.found, batches=iter(()), batches_read=())


def shard_on_cpu(trainer: Any) -> None:
    """Let accelerate take processes without a GPU for such as it shards a model over.

    Its state drops the plugin where no accelerator is found, and trains by DDP without a word.
    """
    state = trainer.accelerator.state._shared_state
    state["distributed_type"] = DistributedType.FSDP
    state["fsdp_plugin"] = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    trainer.is_fsdp_enabled = True


@pytest.mark.slow
def test_two_processes_find_and_train_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOLRS_TEST_FOLDER", str(tmp_path))
    one, other = start_workers(train, 2, tmp_path)
    assert one["world"] == 2
    assert one["lr"] == other["lr"]
    assert one["lrs"] == other["lrs"]
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name])
    # All processes' batches together are those of one process with batches of twice the size.
    alone = trainer_of(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    callback = AutoLRSCallback(alone, **SHORT)
    alone.add_callback(callback)
    alone.train()
    assert callback.found is not None
    assert one["lr"] == pytest.approx(callback.found.lr, rel=1e-6)
    # A model that is sharded adds up the norm of its gradient in another order.
    for each in (one, other):
        assert each["sharded"].lr == pytest.approx(one["plain"].lr, rel=1e-9)
        for probe, alike in zip(each["sharded"].probes, one["plain"].probes, strict=True):
            assert probe.loss == pytest.approx(alike.loss, rel=1e-9)
