"""Image classification with residual networks, as a `TrainingTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.workloads.measure import measure_test_set
from ray_autolrs.workloads.preset import Preset

with NeedsExtra("examples"):
    from torchvision.models.resnet import BasicBlock, resnet50

    from ray_autolrs.workloads.images.folder import class_names, image_folder
    from ray_autolrs.workloads.images.in_memory import Part, SmallImages, cifar10, fashion_mnist

Source = Literal["imagenet", "cifar10", "fashion"]


class SmallResNet(nn.Module):
    """A residual network for small images: a stem of stride 2 or 1, then three blocks.

    Args:
        channels: of the images.
        width: channels of the first block; each further block has twice as many, at half the
            resolution.
        stem_stride: 2 halves the resolution at once, for CPUs.
        classes: number of outputs.
    """

    def __init__(self, *, channels: int, width: int, stem_stride: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            _block(width, width, 1), _block(width, 2 * width, 2), _block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        features: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return two 3x3 convolutions, added to their input or its projection."""
    block: nn.Module = BasicBlock(inputs, outputs, stride)
    if (inputs, stride) != (outputs, 1):
        block.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return block


@dataclass(kw_only=True)
class ImageTask(TrainingTask):
    """Classification by cross-entropy, with SGD of momentum 0.9.

    Attributes:
        source: the data set, and with it the network: ResNet-50 for ``"imagenet"``.
        folder: where the data lies, on every worker.
        global_batch_size: images in an optimizer step.
        micro_batch_size: images in a forward pass, or None for each worker's share.
        weight_decay: on all parameters.
    """

    source: Source
    folder: str
    global_batch_size: int
    micro_batch_size: int | None = None
    weight_decay: float = 1e-4
    precision: Precision = "fp32"
    loader_workers: int = 0

    def check_data(self) -> None:
        """Look whether the data is there, without reading ImageNet's images.

        Raises:
            ValueError: a file or folder is missing or malformed; the message names it.
        """
        if self.source == "imagenet":
            class_names(Path(self.folder))
        else:
            self._small("train")
            self._small("test")

    def build_model(self) -> nn.Module:
        model: nn.Module
        if self.source == "imagenet":
            model = resnet50(num_classes=len(class_names(Path(self.folder))))
        elif self.source == "cifar10":
            model = SmallResNet(channels=3, width=32, stem_stride=1)
        else:
            model = SmallResNet(channels=1, width=16, stem_stride=2)
        return model.to(memory_format=torch.channels_last)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        # The LR is a place-holder: the schedule sets it.
        return torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=self.weight_decay
        )

    def train_dataset(self) -> Dataset[Any]:
        if self.source == "imagenet":
            return cast("Dataset[Any]", image_folder(Path(self.folder), "train"))
        return self._small("train")

    def val_dataset(self) -> Dataset[Any]:
        if self.source == "imagenet":
            return cast("Dataset[Any]", image_folder(Path(self.folder), "val"))
        return self._small("validation").normalised_as(self._small("train"))

    def test_dataset(self) -> Dataset[Any]:
        """Return images that neither training nor search has seen.

        ImageNet has published no labels for its test set: there it is the validation set.
        """
        if self.source == "imagenet":
            return self.val_dataset()
        return self._small("test").normalised_as(self._small("train"))

    def _small(self, part: Part) -> SmallImages:
        read = cifar10 if self.source == "cifar10" else fashion_mnist
        return read(Path(self.folder), part)

    def collate(self, samples: Sequence[Any]) -> Any:
        # Small images come as whole batches already, from SmallImages.__getitems__.
        return samples if self.source != "imagenet" else default_collate(list(samples))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(_logits(model, batch), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        hits = _logits(model, batch).topk(5, dim=1).indices == batch[1][:, None]
        return {
            "top1": hits[:, 0].float().mean(),
            "top5": hits.any(dim=1).float().mean(),
        }

    def test(self, model: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Return top-1 and top-5 accuracy on the test set."""
        return measure_test_set(self, self.test_dataset(), model, device, batch_size=250)


def _logits(model: nn.Module, batch: Any) -> Tensor:
    logits: Tensor = model(batch[0].contiguous(memory_format=torch.channels_last))
    return logits


PRESETS = {
    # Batch of 1024: the paper, section 5. 90 epochs of 1251 steps, 5 of them warm-up. The
    # interval is ours: 0.4, the usual LR for this batch, with room on both sides.
    "imagenet": Preset(
        task=partial(
            ImageTask,
            source="imagenet",
            global_batch_size=1024,
            micro_batch_size=64,
            weight_decay=1e-4,
            precision="bf16",
            loader_workers=8,
        ),
        config=AutoLRSConfig.paper(
            total_steps=90 * 1251, lr=(0.01, 4.0), warmup=Warmup(steps=5 * 1251, lr=0.4)
        ),
    ),
    # For one GPU, or for patience: 30 epochs. The numbers of both small presets are ours; they
    # search by the package's default, which is measured to end better (bench/NOTES.md). Data
    # takes under 5% of a step there, so that no processes load it.
    "cifar10": Preset(
        task=partial(ImageTask, source="cifar10", global_batch_size=128, weight_decay=5e-4),
        config=AutoLRSConfig(total_steps=30 * 351, lr=(1e-3, 1.0)),
    ),
    # For two CPU cores: 10 epochs.
    "fashion": Preset(
        task=partial(ImageTask, source="fashion", global_batch_size=128, weight_decay=5e-4),
        config=AutoLRSConfig(total_steps=4300, lr=(1e-3, 1.0)),
    ),
}
