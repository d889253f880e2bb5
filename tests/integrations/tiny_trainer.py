"""A tiny transformers.Trainer on the CPU, and what it does: for tests of AutoLRSCallback."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from ray_autolrs import Bracket
from ray_autolrs.integrations.hugging_face import AutoLRSCallback

STEPS = 12
SHORT: dict[str, Any] = {"search": Bracket(probe_steps=8), "validation_samples": 8}


class Text(Dataset):
    """Sentences of two tokens in turn, of unequal lengths where ``ragged``."""

    def __init__(self, ragged=False):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(1, 50, (64, 2), generator=generator).repeat(1, 6)
        self.ragged = ragged

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        labels = self.tokens[index].clone()
        if self.ragged:
            labels[: index % 9] = -100
        return {"input_ids": self.tokens[index], "labels": labels}


class OnePass(IterableDataset):
    """Gives each sentence once, whoever asks."""

    def __init__(self):
        self.samples = iter([Text()[place % 64] for place in range(300)])

    def __iter__(self):
        return self.samples


def language_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config).double()


def trainer_of(path, data=None, model=None, optimizers=(None, None), **overrides):
    values: dict[str, Any] = {
        "output_dir": str(path),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": STEPS,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "weight_decay": 0.1,
        "logging_steps": 1,
    }
    args = TrainingArguments(**(values | overrides))
    data = Text() if data is None else data
    model = model or language_model()
    return Trainer(model, args, train_dataset=data, eval_dataset=Text(), optimizers=optimizers)


def searched(trainer, **settings):
    callback = AutoLRSCallback(trainer, **(SHORT | settings))
    trainer.add_callback(callback)
    return callback


class Seen(TrainerCallback):
    """Notes the LR and the samples of each training step."""

    def __init__(self, trainer):
        self.lrs: list[list[float]] = []
        self.firsts: list[torch.Tensor] = []
        take = trainer.training_step

        def noted(model, inputs, *args):
            if trainer.state.log_history or self.lrs or trainer.state.global_step:
                self.firsts.append(inputs["input_ids"].clone())
            return take(model, inputs, *args)

        trainer.training_step = noted

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])


def mean_loss(model, batch):
    return model(**batch).loss
