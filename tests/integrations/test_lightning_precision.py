"""AutoLRS with Lightning's precision plugins and gradient accumulation, on the CPU."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ray_autolrs import find_lr
from tests.integrations.tiny_lightning import (
    SHORT,
    STEPS,
    Module,
    fitted,
    found_by,
    samples,
)

with warnings.catch_warnings():  # of packages that Lightning imports
    warnings.simplefilter("ignore")
    from lightning.pytorch.plugins import HalfPrecision, MixedPrecision

    from ray_autolrs.integrations.lightning import AutoLRS

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning", "ignore::UserWarning", "ignore::FutureWarning"
)

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16}


class Single(Module):
    """In float32, without dropout, with one parameter group."""

    lr = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.drop.p = 0.0
        self.net.float()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=self.lr, momentum=0.9)


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)


def plugin(precision: str) -> Any:
    """Return the plugin; Lightning's own choice for float16 on a CPU is bfloat16."""
    if precision == "bf16-true":
        return HalfPrecision("bf16-true")
    is_half = precision == "16-mixed"
    return MixedPrecision(
        "16-mixed" if is_half else "bf16-mixed", "cpu", scaler() if is_half else None
    )


def data() -> DataLoader[Any]:
    x, y = samples().tensors
    return DataLoader(TensorDataset(x.float(), y), batch_size=8)


def trained(path: Any, precision: str, callback: AutoLRS | None, lr: float) -> Any:
    module = Single()
    module.lr = lr
    trainer, _ = fitted(
        path, callback, module=module, data=data(), plugins=[plugin(precision)],
        accumulate_grad_batches=2, gradient_clip_val=0.5,
    )  # fmt: skip
    return trainer, module


@pytest.mark.parametrize("precision", DTYPES)
def test_precision_and_accumulation_are_those_of_training(tmp_path, precision):
    callback = AutoLRS(averaging=None, **SHORT)
    trainer, module = trained(tmp_path, precision, callback, 0.05)
    found = found_by(callback)
    assert math.isfinite(found.lr)

    model, dtype = Single().net, DTYPES[precision]
    is_mixed = precision.endswith("mixed")
    if not is_mixed:
        model.to(dtype)

    def loss(net: nn.Module, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=is_mixed, cache_enabled=False):
            outputs = net(batch[0] if is_mixed else batch[0].to(dtype))
            return nn.functional.cross_entropy(outputs, batch[1])

    expected = find_lr(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        loss=loss,
        train_batches=data(),
        total_steps=STEPS,
        accumulation=2,
        scaler=scaler() if precision == "16-mixed" else None,
        max_grad_norm=0.5,
        **SHORT,
    )
    assert found.lr == expected.lr
    for probe, alike in zip(found.probes, expected.probes, strict=True):
        assert probe.training_losses == pytest.approx(alike.training_losses, rel=1e-6)

    # Training went on as it would have begun with that LR, the gradient scaler too.
    other, plain = trained(tmp_path, precision, None, found.lr)
    for name, value in module.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert trainer.precision_plugin.state_dict() == other.precision_plugin.state_dict()
    assert bool(trainer.precision_plugin.state_dict()) == (precision == "16-mixed")
