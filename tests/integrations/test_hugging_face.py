"""AutoLRSCallback in an unchanged transformers.Trainer, with tiny models on the CPU."""

from __future__ import annotations

import copy
import itertools
import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from ray_autolrs import EMA, Bracket, ScheduleFree, ScheduleFreeAverage, Warmup, find_lr
from ray_autolrs.integrations.hugging_face import AutoLRSCallback
from ray_autolrs.integrations.live_training import innermost
from tests.training.toy import assert_same

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


@pytest.mark.parametrize("averaging", [ScheduleFreeAverage(), None], ids=["averaged", "plain"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_finds_what_find_lr_finds_on_the_same_batches(tmp_path, averaging, accumulation):
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=accumulation)
    callback = searched(trainer, averaging=averaging)
    trainer.train()
    other = trainer_of(tmp_path, gradient_accumulation_steps=accumulation)
    expected = find_lr(
        other.model,
        other.create_optimizer(),
        loss=mean_loss,
        train_batches=other.get_train_dataloader(),
        total_steps=STEPS,
        averaging=averaging,
        accumulation=accumulation,
        max_grad_norm=1.0,
        **SHORT,
    )
    assert callback.found.lr == pytest.approx(expected.lr, rel=1e-9)
    for probe, alike in zip(callback.found.probes, expected.probes, strict=True):
        assert probe.loss == pytest.approx(alike.loss, rel=1e-9)
    assert_same(list(callback.found.batches_read), list(expected.batches_read))


def test_the_search_changes_nothing_that_the_trainer_sees(tmp_path):
    """With the LR that it finds, a trainer without it trains to the same bits."""
    trainer = trainer_of(tmp_path, lr_scheduler_type="cosine", warmup_steps=3)
    seen = Seen(trainer)
    callback = searched(trainer, averaging=None)
    trainer.add_callback(seen)
    trainer.train()
    lr = callback.found.lr
    other = trainer_of(tmp_path, lr_scheduler_type="cosine", warmup_steps=3, learning_rate=lr)
    alike = Seen(other)
    other.add_callback(alike)
    other.train()
    assert seen.lrs == alike.lrs
    assert max(seen.lrs)[0] == pytest.approx(lr)
    assert_same(seen.firsts[-STEPS:], alike.firsts[-STEPS:])
    assert_same(trainer.model.state_dict(), other.model.state_dict())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [entry["loss"] for entry in other.state.log_history if "loss" in entry]


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


def test_evaluation_and_what_is_saved_are_at_the_average(tmp_path):
    trainer = trainer_of(
        tmp_path, eval_strategy="steps", eval_steps=4, save_strategy="steps", save_steps=3,
        save_only_model=False,
    )  # fmt: skip
    callback = searched(trainer)
    at_step = {}

    class Averages(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            optimizer = innermost(trainer.optimizer)
            assert isinstance(optimizer, ScheduleFree)
            with optimizer.averaged():
                at_step[state.global_step] = copy.deepcopy(trainer.model)

    trainer.add_callback(Averages())
    trainer.train()
    assert callback.found is not None
    for step in (3, 6, 9, 12):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        averaged = at_step[step].state_dict()
        assert_same(saved, {name: averaged[name] for name in saved})
    for entry in trainer.state.log_history:
        if "eval_loss" in entry:
            model = at_step[entry["step"]]
            expected = trainer_of(tmp_path, model=model).evaluate()["eval_loss"]
            assert entry["eval_loss"] == pytest.approx(expected, rel=1e-9)
    assert_same(trainer.model.state_dict(), at_step[STEPS].state_dict())


@pytest.mark.parametrize("scheduler", ["polynomial", "constant"])
@pytest.mark.parametrize("averaged", [True, False])
def test_a_resumed_run_goes_on_without_a_search(tmp_path, monkeypatch, averaged, scheduler):
    averaging = ScheduleFreeAverage() if averaged else None
    settings: dict[str, Any] = {
        "save_strategy": "steps", "save_steps": 5, "lr_scheduler_type": scheduler,
    }  # fmt: skip
    whole = trainer_of(tmp_path, **settings)
    callback = searched(whole, averaging=averaging)
    seen = Seen(whole)
    whole.add_callback(seen)
    whole.train()
    monkeypatch.setattr("ray_autolrs.integrations.hugging_face.find_lr", None)
    resumed = trainer_of(tmp_path, **settings)
    other = searched(resumed, averaging=averaging)
    again = Seen(resumed)
    resumed.add_callback(again)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert other.found is None
    assert other.lrs == callback.lrs == callback.found.group_lrs
    assert again.lrs == seen.lrs[5:]
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    state = json.loads((tmp_path / "checkpoint-10" / "trainer_state.json").read_text())
    assert sum("autolrs" in entry for entry in state["log_history"]) == 1


def test_a_stream_loses_no_batch(tmp_path):
    trainer = trainer_of(tmp_path, OnePass())
    seen = Seen(trainer)
    callback = searched(trainer)
    trainer.train()
    assert callback.found.costs.batches > 4
    expected = [Text()[place % 64]["input_ids"] for place in range(4 * STEPS)]
    assert_same(torch.cat(seen.firsts[-STEPS:]), torch.stack(expected))


def test_groups_keep_their_ratio_and_the_lr_warms_up(tmp_path):
    model = language_model()
    parameters = list(model.parameters())
    groups = [{"params": parameters[:3], "lr": 1e-2}, {"params": parameters[3:], "lr": 2e-3}]
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    trainer = trainer_of(tmp_path, model=model, optimizers=(optimizer, None))
    callback = searched(trainer, warmup=Warmup(steps=4, power=1.0))
    seen = Seen(trainer)
    trainer.add_callback(seen)
    trainer.train()
    lr = callback.found.lr
    for step, lrs in enumerate(seen.lrs):
        factor = min(1.0, (step + 1) / 4)
        assert lrs == pytest.approx([lr * factor, lr * factor / 5])
    assert optimizer.param_groups[0]["lr_factor"] == pytest.approx(10.0)


def test_a_scheduler_of_the_users_own_gets_the_peak(tmp_path):
    model = language_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
    trainer = trainer_of(tmp_path, model=model, optimizers=(optimizer, scheduler))
    with pytest.raises(ValueError, match="was given a scheduler, and an average needs a constant"):
        AutoLRSCallback(trainer)
    callback = searched(trainer, averaging=None)
    seen = Seen(trainer)
    trainer.add_callback(seen)
    trainer.train()
    other = torch.optim.AdamW(language_model().parameters(), lr=1e-2)
    same = torch.optim.lr_scheduler.OneCycleLR(other, max_lr=1e-2, total_steps=STEPS)
    ratio = callback.found.lr / (1e-2 / 25)
    for lrs in seen.lrs:
        assert lrs[0] == pytest.approx(other.param_groups[0]["lr"] * ratio)
        other.step()
        same.step()


def test_bf16_and_an_optimizer_that_averages_itself(tmp_path):
    model = language_model().float()
    trainer = trainer_of(tmp_path, model=model, bf16=True, optim="schedule_free_adamw")
    callback = searched(trainer)
    trainer.train()
    assert math.isfinite(callback.found.lr)
    assert type(innermost(trainer.optimizer)).__name__ == "AdamWScheduleFree"
    trainer = trainer_of(tmp_path, model=language_model().float(), bf16=True)
    callback = searched(trainer)
    trainer.train()
    assert isinstance(innermost(trainer.optimizer), ScheduleFree)
    # A second run of the same trainer searches from the weights that are there.
    first, before = callback.found, copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert callback.found is not first
    start = callback.found.probes[0].training_losses[0]
    with torch.no_grad():
        again = language_model().float()
        again.load_state_dict(before)
        batch = callback.found.batches_read[2]
        assert again(**batch).loss.item() == pytest.approx(start, rel=0.02)


def test_a_checkpoint_without_a_search_goes_on_as_it_was(tmp_path, caplog):
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5}
    plain = trainer_of(tmp_path, **settings)
    plain.train()
    trainer = trainer_of(tmp_path, **settings)
    callback = searched(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.found is callback.lrs is None
    assert "made without AutoLRSCallback" in caplog.text
    assert_same(trainer.model.state_dict(), plain.model.state_dict())


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"trainer=int must be a transformers\.Trainer"):
        AutoLRSCallback(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"averaging=EMA\(.*must be ScheduleFreeAverage"):
        AutoLRSCallback(trainer_of(tmp_path), averaging=EMA())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"warmup\.lr=0\.1 must be None"):
        AutoLRSCallback(trainer_of(tmp_path), warmup=Warmup(lr=0.1))
    assert len(list(itertools.islice(OnePass(), 3))) == 3
