"""AutoLRSCallback in TRL's SFTTrainer, and with a model that PEFT has put adapters into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ray_autolrs import find_lr
from ray_autolrs.integrations.hugging_face import AutoLRSCallback
from ray_autolrs.integrations.live_training import innermost
from tests.integrations.tiny_trainer import (
    SHORT,
    STEPS,
    Text,
    language_model,
    mean_loss,
    searched,
    trainer_of,
)
from tests.training.toy import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def sft_trainer(path: Any, **settings: Any) -> Any:
    trl = pytest.importorskip("trl", reason="TRL needs Python 3.11")
    datasets = pytest.importorskip("datasets")
    words = {"<pad>": 0, "<eos>": 49} | {f"w{place}": place for place in range(1, 49)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    rows = [{"input_ids": row.tolist()} for row in Text().tokens]
    values: dict[str, Any] = {
        "output_dir": str(path),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "max_steps": STEPS,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
    }
    return trl.SFTTrainer(
        model=language_model(),
        args=trl.SFTConfig(**(values | settings)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def told(trainer: Any) -> list[dict[str, Any]]:
    """Return what a trainer has logged of each step, without times and what was found."""
    timed = ("runtime", "per_second", "autolrs")
    return [
        {name: value for name, value in entry.items() if not any(word in name for word in timed)}
        for entry in trainer.state.log_history
        if "autolrs" not in entry
    ]


def test_trl_trains_and_logs_as_without_the_search(tmp_path):
    trainer = sft_trainer(tmp_path)
    callback = AutoLRSCallback(trainer, averaging=None, **SHORT)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.found is not None
    other = sft_trainer(tmp_path, learning_rate=callback.found.lr)
    other.train()
    assert_same(trainer.model.state_dict(), other.model.state_dict())
    assert told(trainer) == told(other)
    assert {"loss", "mean_token_accuracy", "num_tokens"} <= set(told(trainer)[0])


def test_trl_trains_on_with_an_average(tmp_path):
    trainer = sft_trainer(tmp_path)
    callback = AutoLRSCallback(trainer, **SHORT)
    trainer.add_callback(callback)
    trainer.train()
    optimizer = innermost(trainer.optimizer)
    averaged = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.save_model(str(tmp_path / "last"))
    saved = load_file(tmp_path / "last" / "model.safetensors")
    assert_same(saved, {name: averaged[name] for name in saved})
    optimizer.train()
    trained = trainer.model.state_dict()
    assert any(not torch.equal(value, averaged[name]) for name, value in trained.items())


def adapted() -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(language_model(), config)


def test_adapters_are_searched_averaged_saved_and_resumed(tmp_path, monkeypatch):
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6, "learning_rate": 1e-1}
    trainer = trainer_of(tmp_path, model=adapted(), **settings)
    trainer.model_accepts_loss_kwargs = False  # else the loss is a sum, divided by the tokens
    callback = searched(trainer)
    frozen = {
        name: value.clone()
        for name, value in trainer.model.named_parameters()
        if not value.requires_grad
    }
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert value.requires_grad or torch.equal(value, frozen[name]), name
    saved = load_file(tmp_path / f"checkpoint-{STEPS}" / "adapter_model.safetensors")
    averaged = {
        name.replace(".default", ""): value
        for name, value in trainer.model.state_dict().items()
        if "lora" in name
    }
    assert_same(saved, {name: averaged[name] for name in saved})

    other = trainer_of(tmp_path, model=adapted(), **settings)
    expected = find_lr(
        other.model,
        other.create_optimizer(),
        loss=mean_loss,
        train_batches=other.get_train_dataloader(),
        total_steps=STEPS,
        averaging=callback._settings.averaging,
        max_grad_norm=1.0,
        **SHORT,
    )
    assert callback.found.lr == expected.lr

    monkeypatch.setattr("ray_autolrs.integrations.live_training.find_lr", None)
    resumed = trainer_of(tmp_path, model=adapted(), **settings)
    resumed.model_accepts_loss_kwargs = False
    again = searched(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert again.lrs == callback.lrs
    assert_same(resumed.model.state_dict(), trainer.model.state_dict())
