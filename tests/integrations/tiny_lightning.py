"""A tiny lightning.Trainer on the CPU: for tests of the AutoLRS callback."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ray_autolrs import Bracket

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torchmetrics import MeanMetric

STEPS = 12
SHORT: dict[str, Any] = {"search": Bracket(probe_steps=8), "validation_samples": 16}


def samples(size=200):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x, (x.sum(1) > 0).long())


class OnePass(IterableDataset):
    """Gives each sample once, whoever asks."""

    def __init__(self):
        self.samples = iter(samples(1000))

    def __iter__(self):
        return self.samples


class Module(pl.LightningModule):
    scheduler: Any = None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.drop = nn.Dropout(0.1)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), self.drop, nn.Linear(16, 2))
        self.net.double()
        self.mean: Any = MeanMetric()
        self.seen: list[torch.Tensor] = []
        self.lrs: list[list[float]] = []
        self.calls = 0

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        self.mean.update(loss.detach())
        self.calls += 1
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append(batch[0].clone())
        self.lrs.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    def configure_optimizers(self):
        bias = [value for name, value in self.named_parameters() if name.endswith("bias")]
        others = [value for name, value in self.named_parameters() if not name.endswith("bias")]
        groups = [{"params": others, "lr": 0.05}, {"params": bias, "lr": 0.2}]
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def found_by(callback):
    assert callback.found is not None
    return callback.found


def loader(shuffle=False, data=None):
    return DataLoader(data or samples(), batch_size=8, shuffle=shuffle)


def trainer_of(path, *callbacks, **changed):
    settings: dict[str, Any] = {
        "accelerator": "cpu", "max_steps": STEPS, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": path, "callbacks": list(callbacks),
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "devices": 1,
    }  # fmt: skip
    return pl.Trainer(**(settings | changed))


def fitted(path, callback, *callbacks, module=None, data=None, ckpt_path=None, **changed):
    module = module or Module()
    trainer = trainer_of(path, *([callback] if callback else []), *callbacks, **changed)
    torch.manual_seed(5)
    trainer.fit(module, loader() if data is None else data, ckpt_path=ckpt_path)
    return trainer, module
