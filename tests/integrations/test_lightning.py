"""The AutoLRS callback in a lightning.Trainer, with a tiny module on the CPU."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ray_autolrs import ScheduleFree, ScheduleFreeAverage, Warmup, find_lr
from tests.integrations.tiny_lightning import (
    SHORT,
    STEPS,
    Module,
    OnePass,
    fitted,
    found_by,
    loader,
    samples,
    trainer_of,
)
from tests.training.toy import assert_same

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from ray_autolrs.integrations.lightning import AutoLRS
    from ray_autolrs.integrations.live_training import innermost

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning",
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)


@pytest.mark.parametrize("averaging", [ScheduleFreeAverage(), None], ids=["averaged", "plain"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_finds_what_find_lr_finds_on_the_same_batches(tmp_path, averaging, accumulation):
    changed = {"accumulate_grad_batches": accumulation, "gradient_clip_val": 0.5}
    other = Module()
    other.drop.p = 0.0
    callback = AutoLRS(averaging=averaging, **SHORT)
    still = Module()
    still.drop.p = 0.0
    fitted(tmp_path, callback, module=still, **changed)
    expected = find_lr(
        other,
        other.configure_optimizers(),
        loss=lambda model, batch: nn.functional.cross_entropy(model.net(batch[0]), batch[1]),  # type: ignore[operator]
        train_batches=loader(),
        total_steps=STEPS,
        averaging=averaging,
        accumulation=accumulation,
        max_grad_norm=0.5,
        **SHORT,
    )
    assert callback.found is not None
    assert found_by(callback).lr == pytest.approx(expected.lr, rel=1e-9)
    assert callback.found.group_lrs[1] == pytest.approx(4 * found_by(callback).lr)
    for probe, alike in zip(callback.found.probes, expected.probes, strict=True):
        assert probe.loss == pytest.approx(alike.loss, rel=1e-6)
    assert_same(list(callback.found.batches_read), list(expected.batches_read))


def test_the_search_changes_nothing_that_the_trainer_sees(tmp_path):
    class Scheduled(Module):
        factor = 1.0

        def scheduler(self, optimizer):
            for group in optimizer.param_groups:
                group["lr"] *= self.factor
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

        def training_step(self, batch, batch_idx):
            self.drop.p = 0.0
            return super().training_step(batch, batch_idx)

    callback = AutoLRS(averaging=None, **SHORT)
    _, module = fitted(tmp_path, callback, module=Scheduled(), data=loader(shuffle=True))
    other = Scheduled()
    other.factor = found_by(callback).lr / 0.05
    fitted(tmp_path, None, module=other, data=loader(shuffle=True))
    assert_same(module.seen, other.seen)
    assert torch.tensor(module.lrs) == pytest.approx(torch.tensor(other.lrs))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])
    assert module.calls == other.calls == STEPS
    assert module.mean.compute() == pytest.approx(other.mean.compute())


def test_more_than_an_epoch_is_searched_and_each_epoch_is_whole(tmp_path):
    few = loader(data=samples(40))
    callback = AutoLRS(**SHORT)
    _, module = fitted(tmp_path, callback, data=few)
    assert found_by(callback).costs.batches == 10
    expected = [batch[0] for batch in few]
    assert_same(module.seen, (expected * 3)[:STEPS])


def test_a_stream_loses_no_batch(tmp_path):
    callback = AutoLRS(**SHORT)
    _, module = fitted(tmp_path, callback, data=DataLoader(OnePass(), batch_size=8))
    expected = torch.stack([x for x, _ in itertools.islice(samples(1000), 8 * STEPS)])
    assert_same(torch.cat(module.seen), expected)


class Averages(Callback):
    """Notes the averaged weights after each step."""

    def __init__(self):
        self.at_step: dict[int, Any] = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        optimizer = innermost(trainer.optimizers[0])
        assert isinstance(optimizer, ScheduleFree)
        with optimizer.averaged():
            self.at_step[trainer.global_step] = copy.deepcopy(pl_module.net.state_dict())


def test_evaluation_and_what_is_saved_are_at_the_average(tmp_path):
    averages, validated = Averages(), {}

    class Validated(Module):
        def on_validation_epoch_start(self):
            if not self.trainer.sanity_checking:
                validated[self.trainer.global_step] = copy.deepcopy(self.net.state_dict())

    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    module = Validated()
    trainer = trainer_of(tmp_path, AutoLRS(**SHORT), averages, saving, val_check_interval=5)
    trainer.fit(module, loader(), loader())
    assert sorted(validated) == [5, 10]
    for step, weights in validated.items():
        assert_same(weights, averages.at_step[step])
    for step in (3, 6, 9, 12):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["state_dict"]
        weights = {name.removeprefix("net."): value for name, value in saved.items()}
        for name, value in averages.at_step[step].items():
            assert torch.equal(weights[name], value)
    assert_same(dict(module.net.state_dict()), dict(averages.at_step[STEPS]))


@pytest.mark.parametrize("averaged", [True, False])
def test_a_resumed_run_goes_on_without_a_search(tmp_path, monkeypatch, averaged):
    class Scheduled(Module):
        def scheduler(self, optimizer):
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

        def training_step(self, batch, batch_idx):
            self.drop.p = 0.0
            return super().training_step(batch, batch_idx)

    def callback():
        return AutoLRS(averaging=ScheduleFreeAverage() if averaged else None, **SHORT)

    data = loader(data=samples(48))  # 6 steps an epoch
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=6)
    first = callback()
    _, whole = fitted(tmp_path, first, saving, module=Scheduled(), data=data)
    monkeypatch.setattr("ray_autolrs.integrations.live_training.find_lr", None)
    second = callback()
    _, resumed = fitted(
        tmp_path, second, module=Scheduled(), data=data, ckpt_path=tmp_path / "step=6.ckpt"
    )
    assert second.found is None
    assert second.lrs == first.lrs == first.found.group_lrs
    assert resumed.lrs == whole.lrs[6:]
    assert_same(dict(resumed.net.state_dict()), dict(whole.net.state_dict()))


def test_a_checkpoint_without_a_search_goes_on_as_it_was(tmp_path, caplog):
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=6)
    fitted(tmp_path, None, saving)
    callback = AutoLRS(**SHORT)
    trainer, _ = fitted(tmp_path, callback, ckpt_path=tmp_path / "step=6.ckpt")
    assert callback.found is None
    assert callback.lrs is None
    assert "made without AutoLRS" in caplog.text
    assert type(innermost(trainer.optimizers[0])) is torch.optim.SGD


def test_the_lr_warms_up_and_stays_in_bf16(tmp_path):
    callback = AutoLRS(warmup=Warmup(steps=4, power=1.0), **SHORT)
    module = Module()
    module.net.float()
    data = loader(data=TensorDataset(samples().tensors[0].float(), samples().tensors[1]))
    trainer, _ = fitted(tmp_path, callback, module=module, data=data, precision="bf16-mixed")
    lr = found_by(callback).lr
    assert math.isfinite(lr)
    for step, lrs in enumerate(module.lrs):
        factor = min(1.0, (step + 1) / 4)
        assert lrs == pytest.approx([lr * factor, 4 * lr * factor])
    group = trainer.optimizers[0].param_groups[0]
    assert group["average_momentum"] == ScheduleFreeAverage().resolve(8).momentum


def test_modules_that_are_refused(tmp_path):
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    class Two(Module):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    with pytest.raises(ValueError, match=r"Manual\.automatic_optimization=False takes its steps"):
        fitted(tmp_path, AutoLRS(), module=Manual())
    with pytest.raises((ValueError, RuntimeError), match=r"2 optimizers|multiple optimizers"):
        fitted(tmp_path, AutoLRS(), module=Two())


@pytest.mark.parametrize("is_frozen", [False, True])
def test_batch_norm_is_calibrated_at_the_average(tmp_path, is_frozen):
    class Normed(Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(16).double()
            self.net = nn.Sequential(
                nn.Linear(6, 16).double(), self.norm, nn.Linear(16, 2).double()
            )

        def on_train_epoch_start(self):
            self.norm.train(not is_frozen)

    trainer, module = fitted(tmp_path, AutoLRS(**SHORT), module=Normed(), data=loader())
    before = module.norm.running_mean.clone()
    if is_frozen:
        assert torch.equal(before, torch.zeros_like(before))
        return
    module.norm.reset_running_stats()
    optimizer = innermost(trainer.optimizers[0])
    optimizer.calibrate(module.net, module.seen)
    torch.testing.assert_close(before, module.norm.running_mean)
    trained = module.net[0].weight.clone()
    optimizer.train()
    assert not torch.equal(module.net[0].weight, trained)
    assert not torch.equal(module.norm.running_mean, before)
