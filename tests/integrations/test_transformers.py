"""TransformersTask against a real transformers.Trainer, and a schedule inside of one.

The models are in float64, so that only a wrong step can make a difference.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from torch.utils.data import Dataset, SequentialSampler, Subset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from ray_autolrs import EMA, AutoLRSConfig, AutoLRSTrainer, LRSchedule, Stages, Warmup
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.integrations.transformers import TransformersTask
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.epoch_order import epoch_order
from ray_autolrs.training.replica import Replica
from tests.digits_task import short_config

STEPS = 4


class Sentences(Dataset):
    """Random tokens; the label says whether the first one is odd. Has a column too many."""

    def __init__(self, size=64):
        self.tokens = torch.randint(1, 50, (size, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        return {"input_ids": tokens, "label": int(tokens[0]) % 2, "text": f"sentence {index}"}


class Text(Sentences):
    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def classifier():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).double()


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


def arguments(path, **overrides):
    values: dict[str, Any] = {
        "output_dir": str(path),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 10,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        # Large: the gradient of attention's key bias is zero but for rounding, and Adam with a
        # small epsilon makes whole steps of it.
        "adam_epsilon": 1e-4,
        "max_steps": STEPS,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(values | overrides))


def accuracy(prediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


class InOurOrder(Trainer):
    """A Trainer without shuffling, which averages over the micro-batches of every model.

    Left to itself, it adds them up where a model takes further arguments and ignores the number
    of labels, as sequence classifiers do (transformers 5.23).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(self.model, BertForSequenceClassification):
            self.loss_is_scaled_for_ga = False

    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(cast(Any, self.train_dataset))


def trained_by_trainer(model_init, args, data, schedule=None):
    """Train with Trainer on the samples in the order of our batches; return model and LRs."""
    samples = STEPS * args.per_device_train_batch_size * args.gradient_accumulation_steps
    model = model_init()
    trainer = InOurOrder(
        model=model, args=args, train_dataset=Subset(data, epoch_order(len(data), 0, 0, samples))
    )
    if schedule is not None:
        optimizer = trainer.create_optimizer()
        trainer.lr_scheduler = schedule.scheduler(optimizer)
    trainer.train()
    return model


def trained_by_task(model_init, args, data, lr):
    task = TransformersTask(model_init, args, data, data)
    replica = Replica(task, Solo(), torch.device("cpu"), seed=0)
    batches = StepBatches(task, micro_batch_size=args.per_device_train_batch_size, seed=0)
    micros = range(batches.micro_batches)
    losses = torch.zeros(batches.micro_batches, dtype=torch.float64)
    for step, micro_batches in enumerate(batches.stream(0, STEPS, micros)):
        replica.take_step(step, micro_batches, micros, lr(step), losses)
    return replica.module


@pytest.mark.parametrize(
    ("model_init", "data", "overrides"),
    [
        (classifier, Sentences, {"weight_decay": 0.1}),
        (classifier, Sentences, {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1}),
        (classifier, Sentences, {"label_smoothing_factor": 0.3, "max_grad_norm": 0.0}),
        (classifier, Sentences, {"optim": "sgd", "learning_rate": 0.1}),
        (classifier, Sentences, {"adam_beta2": 0.9, "adam_epsilon": 1e-3, "bf16": True}),
        (language_model, Text, {"gradient_accumulation_steps": 2, "weight_decay": 0.1}),
        (language_model, Text, {"label_smoothing_factor": 0.2}),
    ],
)
def test_steps_are_those_of_trainer(tmp_path, model_init, data, overrides):
    args = arguments(tmp_path, **overrides)
    expected = trained_by_trainer(model_init, args, data()).state_dict()
    found = trained_by_task(model_init, args, data(), lambda step: args.learning_rate).state_dict()
    start = model_init().state_dict()
    moved = [name for name in start if not torch.equal(start[name], expected[name])]
    assert len(moved) > 5
    tolerance = 1e-3 if args.bf16 else 1e-9
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_a_found_schedule_plugs_into_trainer(tmp_path):
    schedule = LRSchedule(
        (Segment(0, 1, 4e-3, WarmupStableDecay(0, None, 2, 0)), Segment(2, 99, 1e-3))
    )
    args = arguments(tmp_path, gradient_accumulation_steps=2, logging_steps=1)
    model = classifier()
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.bert.parameters()), "lr": 1e-3},
            {"params": list(model.classifier.parameters()), "lr": 1e-2},
        ],
        weight_decay=0.0,
    )
    seen: list[list[float]] = []

    class Watched(InOurOrder):
        def training_step(self, *args, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])
            return super().training_step(*args, **kwargs)

    data = Sentences()
    order = epoch_order(len(data), 0, 0, STEPS * 8)
    trainer = Watched(
        model=model,
        args=args,
        train_dataset=Subset(data, order),
        optimizers=(optimizer, cast(Any, schedule.scheduler(optimizer))),
    )
    trainer.train()
    lrs = [schedule.lr_at(step) for step in range(STEPS)]
    assert lrs == [2e-3, 4e-3, 1e-3, 1e-3]
    # Two micro-batches a step see the same LR; the groups keep their ratio.
    assert [first for first, _ in seen[::2]] == [first for first, _ in seen[1::2]] == lrs
    assert [second for _, second in seen[::2]] == pytest.approx([10 * lr for lr in lrs])
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == STEPS


def test_trainer_with_a_schedule_takes_the_steps_of_our_training(tmp_path):
    schedule = LRSchedule((Segment(0, 1, 4e-3), Segment(2, STEPS - 1, 1e-3)))
    args = arguments(tmp_path, weight_decay=0.1)
    ours = trained_by_task(classifier, args, Sentences(), schedule.lr_at).state_dict()
    theirs = trained_by_trainer(classifier, args, Sentences(), schedule).state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_optimizer_and_groups_are_those_of_trainer(tmp_path):
    args = arguments(tmp_path, weight_decay=0.02, adam_beta1=0.8)
    model = classifier()
    expected = Trainer(model=model, args=args).create_optimizer()
    found = TransformersTask(classifier, args, Sentences(), Sentences()).build_optimizer(model)
    assert type(found) is type(expected)
    assert len(found.param_groups) == len(expected.param_groups) == 2
    for ours, theirs in zip(found.param_groups, expected.param_groups, strict=True):
        assert list(map(id, ours["params"])) == list(map(id, theirs["params"]))
        settings = [{k: v for k, v in group.items() if k != "params"} for group in (ours, theirs)]
        assert settings[0] == settings[1]
    assert [group["weight_decay"] for group in found.param_groups] == [0.02, 0.0]


def test_an_optimizer_of_trainer_s_that_averages_itself_is_looked_at_by_its_modes(tmp_path):
    args = arguments(tmp_path, optim="schedule_free_adamw", learning_rate=0.01)
    task = TransformersTask(classifier, args, Sentences(), Sentences())
    with pytest.raises(ValueError, match=r"set averaging=None, or use .* optim='adamw_torch'"):
        Engine(task, Solo(), torch.device("cpu"), seed=0, averaging=EMA())
    engine = Engine(task, Solo(), torch.device("cpu"), seed=0)
    list(engine.steps(0, 3, lambda step: 0.01, engine.loss_table(3)))
    (group, *_) = engine.replica.optimizer.param_groups
    assert group["train_mode"]
    with engine.averaged(3):
        assert not group["train_mode"]


def test_batches_come_from_the_arguments(tmp_path):
    args = arguments(tmp_path, gradient_accumulation_steps=3, dataloader_num_workers=2, bf16=True)
    task = TransformersTask(classifier, args, Sentences(), Sentences, num_workers=2)
    assert (task.global_batch_size, task.micro_batch_size, task.eval_batch_size) == (24, 4, 10)
    assert (task.precision, task.max_grad_norm, task.loader_workers) == ("bf16", 1.0, 2)
    assert isinstance(task.val_dataset(), Sentences), "a function is called on the worker"


@pytest.mark.parametrize("keep", [False, True])
def test_columns_that_the_model_does_not_take_are_dropped(tmp_path, keep):
    args = arguments(tmp_path, remove_unused_columns=not keep)
    seen: list[list[str]] = []

    def collator(samples):
        seen.extend(sorted(sample) for sample in samples)
        return {}

    task = TransformersTask(classifier, args, Sentences(), Sentences(), collator)
    task.build_model()
    task.collate([Sentences()[0]])
    assert seen == [["input_ids", "label", "text"] if keep else ["input_ids", "label"]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"neftune_noise_alpha": 5.0}, "TrainingArguments.neftune_noise_alpha=5.0 is not carried"),
        ({"torch_compile": True}, "torch_compile=True is not carried over.*in model_init"),
    ],
)
def test_arguments_that_cannot_be_kept_are_refused(tmp_path, overrides, message):
    args = copy.copy(arguments(tmp_path))
    for name, value in overrides.items():
        setattr(args, name, value)
    with pytest.raises(ValueError, match=message):
        TransformersTask(classifier, args, Sentences(), Sentences())


def test_a_whole_run_finds_a_schedule(tmp_path):
    args = arguments(tmp_path, gradient_accumulation_steps=2)
    task = TransformersTask(classifier, args, Sentences(), Sentences(30), None, accuracy)
    assert cloudpickle.loads(cloudpickle.dumps(task)).global_batch_size == 8
    config: AutoLRSConfig = short_config(
        total_steps=90,
        stages=Stages(first_steps=80, longest_steps=80, growth=1),
        lr=(1e-4, 1e-2),
        warmup=Warmup(steps=10, lr=1e-3),
    )
    result = AutoLRSTrainer(
        task,
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(tmp_path)),
    ).fit()
    assert result.metrics["accuracy"] > 0.7
    assert result.schedule.total_steps == 90


def test_metrics_average_to_those_of_the_whole_set(tmp_path):
    args = arguments(tmp_path)
    data = Sentences(30)
    task = TransformersTask(classifier, args, data, data, None, accuracy)
    model = task.build_model().eval()
    expected = Trainer(
        model=model, args=args, eval_dataset=data, compute_metrics=accuracy
    ).evaluate()
    batches = [task.collate([data[at] for at in range(first, first + 10)]) for first in (0, 10, 20)]
    with torch.no_grad():
        found = [float(task.metrics(model, batch)["accuracy"]) for batch in batches]
        losses = [float(task.loss(model, batch)) for batch in batches]
    assert sum(found) / 3 == pytest.approx(expected["eval_accuracy"])
    assert sum(losses) / 3 == pytest.approx(expected["eval_loss"], rel=1e-5)
