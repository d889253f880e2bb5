"""AutoLRSCallback in an unchanged transformers.Trainer, with tiny models on the CPU."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from ray_autolrs import EMA, ScheduleFree, ScheduleFreeAverage, Warmup, find_lr
from ray_autolrs.integrations.hugging_face import AutoLRSCallback
from ray_autolrs.integrations.live_training import innermost
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.found_lr import FoundLR
from tests.integrations.tiny_trainer import (
    SHORT,
    STEPS,
    Seen,
    language_model,
    mean_loss,
    searched,
    trainer_of,
)
from tests.training.toy import assert_same


def found_in_a_loop(folder: Path, averaging: Averaging | None, accumulation: int = 1) -> FoundLR:
    """What ``find_lr`` finds with the model, the optimizer and the batches of a trainer."""
    trainer = trainer_of(folder, gradient_accumulation_steps=accumulation)
    return find_lr(
        trainer.model,
        trainer.create_optimizer(),
        loss=mean_loss,
        train_batches=trainer.get_train_dataloader(),
        total_steps=STEPS,
        averaging=averaging,
        accumulation=accumulation,
        max_grad_norm=1.0,
        **SHORT,
    )


@pytest.mark.parametrize("averaging", [ScheduleFreeAverage(), None], ids=["averaged", "plain"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_finds_what_find_lr_finds_on_the_same_batches(tmp_path, averaging, accumulation):
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=accumulation)
    callback = searched(trainer, averaging=averaging)
    trainer.train()
    expected = found_in_a_loop(tmp_path, averaging, accumulation)
    assert callback.found.lr == pytest.approx(expected.lr, rel=1e-9)
    for probe, alike in zip(callback.found.probes, expected.probes, strict=True):
        assert probe.loss == pytest.approx(alike.loss, rel=1e-9)
    assert_same(list(callback.found.batches_read), list(expected.batches_read))


@pytest.mark.parametrize("averaging", [ScheduleFreeAverage(), None], ids=["averaged", "plain"])
def test_with_the_same_arithmetic_it_finds_the_very_lr_that_find_lr_finds(tmp_path, averaging):
    trainer = trainer_of(tmp_path)
    trainer.model_accepts_loss_kwargs = False  # else the loss is a sum, divided by the tokens
    callback = searched(trainer, averaging=averaging)
    trainer.train()
    expected = found_in_a_loop(tmp_path, averaging)
    assert callback.found.lr == expected.lr
    for probe, alike in zip(callback.found.probes, expected.probes, strict=True):
        assert probe.training_losses == alike.training_losses
        assert probe.loss == alike.loss


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
    monkeypatch.setattr("ray_autolrs.integrations.live_training.find_lr", None)
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


def test_the_best_model_is_an_average_and_stays_loaded(tmp_path):
    trainer = trainer_of(
        tmp_path, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    searched(trainer)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None
    saved = load_file(Path(best) / "model.safetensors")
    assert_same(saved, {name: trainer.model.state_dict()[name] for name in saved})
    assert trainer.evaluate()["eval_loss"] == trainer.state.best_metric
    trainer.save_model(str(tmp_path / "final"))
    assert_same(saved, load_file(tmp_path / "final" / "model.safetensors"))
