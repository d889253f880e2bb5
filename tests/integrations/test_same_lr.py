"""On one task, with the same batches and seed, each loop finds the very LR that a run finds."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import TrainerCallback

from ray_autolrs import (
    AutoLRSConfig,
    AutoLRSTrainer,
    Bracket,
    ScheduleFreeAverage,
    TrainingTask,
    Validation,
    find_lr,
)
from ray_autolrs.cluster.event_log import parse_events
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.found_lr import FoundLR
from tests.integrations.tiny_lightning import trainer_of
from tests.integrations.tiny_trainer import Text, language_model, searched
from tests.integrations.tiny_trainer import trainer_of as hf_trainer_of

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl

    from ray_autolrs.integrations.lightning import AutoLRS

pytestmark = [
    pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

STEPS = 60
SEARCH = Bracket(probe_steps=8)
AVERAGES = {"averaged": ScheduleFreeAverage(), "plain": None}


class Sentences(TrainingTask):
    """A tiny language model; probes are judged on its first eight sentences."""

    global_batch_size = 4
    eval_batch_size = 4
    max_grad_norm = 1.0

    def build_model(self) -> nn.Module:
        model: nn.Module = language_model()
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train_dataset(self) -> Dataset[Any]:
        return Subset(Text(), range(8, 64))

    def val_dataset(self) -> Dataset[Any]:
        return Subset(Text(), range(8))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = model(**batch).loss
        return loss


class AsStream(Sentences):
    def train_dataset(self) -> Any:
        return itertools.islice(batches(), 2, None)


def batches() -> Iterator[Any]:
    """Yield those of validation and then those of a run's steps, as a loop would read them."""
    yield from DataLoader(Sentences().val_dataset(), batch_size=4)
    addressed = StepBatches(Sentences(), micro_batch_size=4, seed=0)
    yield from (addressed.micro(step, 0) for step in range(STEPS))


class Samples(IterableDataset[Any]):
    """The same, a sentence at a time."""

    def __iter__(self) -> Iterator[Any]:
        for batch in batches():
            for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                yield {"input_ids": tokens, "labels": labels}


def by_plain_loop(averaging: ScheduleFreeAverage | None, path: Any) -> FoundLR:
    task = Sentences()
    model = task.build_model()
    read = [*batches()]
    return find_lr(
        model,
        task.build_optimizer(model),
        loss=task.loss,
        train_batches=read[2:],
        val_batches=read[:2],
        total_steps=STEPS,
        search=SEARCH,
        averaging=averaging,
        max_grad_norm=1.0,
    )


def by_stream(averaging: ScheduleFreeAverage | None, path: Any) -> FoundLR:
    task = Sentences()
    model = task.build_model()
    return find_lr(
        model,
        task.build_optimizer(model),
        loss=task.loss,
        train_batches=batches(),
        validation_samples=8,
        total_steps=STEPS,
        search=SEARCH,
        averaging=averaging,
        max_grad_norm=1.0,
    )


class Stop(TrainerCallback):
    """After the search nothing is of interest here."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


def by_hugging_face(averaging: ScheduleFreeAverage | None, path: Any) -> FoundLR:
    model: Any = Sentences().build_model()
    optimizer = Sentences().build_optimizer(model)
    trainer = hf_trainer_of(
        path, Samples(), model=model, optimizers=(optimizer, None), max_steps=STEPS
    )
    trainer.model_accepts_loss_kwargs = False  # else the loss is a sum, divided by the tokens
    callback = searched(trainer, averaging=averaging, search=SEARCH)
    trainer.add_callback(Stop())
    trainer.train()
    found: FoundLR = callback.found
    return found


class LanguageModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Sentences().build_model()

    def training_step(self, batch: Any) -> torch.Tensor:
        return Sentences().loss(self.net, batch)

    def on_train_batch_end(self, *args: Any) -> None:
        self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        return Sentences().build_optimizer(self.net)


def by_lightning(averaging: ScheduleFreeAverage | None, path: Any) -> FoundLR:
    callback = AutoLRS(averaging=averaging, search=SEARCH, validation_samples=8)
    trainer = trainer_of(path, callback, max_steps=STEPS, gradient_clip_val=1.0)
    trainer.fit(LanguageModule(), DataLoader(Samples(), batch_size=4))
    assert callback.found is not None
    return callback.found


@pytest.fixture(scope="module")
def of_a_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``AutoLRSTrainer`` itself finds: the LR, and the losses of each one that it tried."""
    return {
        name: run(Sentences(), averaging, tmp_path_factory.mktemp(name))
        for name, averaging in AVERAGES.items()
    }


def run(task: TrainingTask, averaging: ScheduleFreeAverage | None, path: Any) -> Any:
    config = AutoLRSConfig(
        total_steps=STEPS,
        lr=1e-2,
        search=SEARCH,
        averaging=averaging,
        validation=Validation(probe_samples=8),
    )
    done = AutoLRSTrainer(
        task,
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(path)),
    ).fit()
    events = parse_events((Path(done.path) / "events.jsonl").read_bytes())
    probes = [event for event in events if event["kind"] == "probe" and event["stage"] == 1]
    lr = done.schedule.segments[0].peak_lr
    return lr, [(probe["peak_lr"], probe["training_losses"]) for probe in probes]


LOOPS = [by_plain_loop, by_stream, by_hugging_face, by_lightning]


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_it_is_the_lr_of_a_run(loop, name, of_a_run, tmp_path):
    found = loop(AVERAGES[name], tmp_path)
    lr, probes = of_a_run[name]
    assert [(probe.lr, list(probe.training_losses)) for probe in found.probes] == probes
    assert found.lr == lr


def test_a_task_with_a_stream_finds_it_too(of_a_run, tmp_path):
    assert run(AsStream(), None, tmp_path) == of_a_run["plain"]
