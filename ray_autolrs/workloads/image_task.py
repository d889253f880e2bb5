"""Image classification with residual networks, as a `TrainingTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.training.batches import to_device
from ray_autolrs.workloads.image_folder import check_image_folder, class_count, image_folder
from ray_autolrs.workloads.small_images import SmallImages, cifar10, fashion_mnist

Source = Literal["imagenet", "cifar10", "fashion"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePreset:
    """A data set, its batches, and how to search.

    Attributes:
        source: the data set, and with it the network.
        global_batch_size: images in an optimizer step.
        micro_batch_size: images in a forward pass, or None for each worker's share.
        weight_decay: on all parameters.
        precision: of the forward and backward pass.
        loader_workers: processes that load data, for each training worker.
        config: the search's settings.
    """

    source: Source
    global_batch_size: int
    micro_batch_size: int | None = None
    weight_decay: float
    precision: Precision = "fp32"
    loader_workers: int
    config: AutoLRSConfig


PRESETS = {
    # Batch of 1024: the paper, section 5. 90 epochs of 1251 steps, 5 of them warm-up. The
    # interval is ours: 0.4, the usual LR for this batch, with room on both sides.
    "imagenet": ImagePreset(
        source="imagenet",
        global_batch_size=1024,
        micro_batch_size=64,
        weight_decay=1e-4,
        precision="bf16",
        loader_workers=8,
        config=AutoLRSConfig.paper(
            total_steps=90 * 1251, lr_min=0.01, lr_max=4.0, warmup_steps=5 * 1251, warmup_lr=0.4
        ),
    ),
    # For one GPU, or for patience: 30 epochs. The numbers of both small presets are ours; they
    # search by the package's default, which is measured to end better (bench/NOTES.md).
    "cifar10": ImagePreset(
        source="cifar10",
        global_batch_size=128,
        weight_decay=5e-4,
        loader_workers=0,  # data takes under 5% of a step: measured, bench/NOTES.md
        config=AutoLRSConfig(
            total_steps=30 * 351,
            lr_min=1e-3,
            lr_max=1.0,
        ),
    ),
    # For two CPU cores: 10 epochs.
    "fashion": ImagePreset(
        source="fashion",
        global_batch_size=128,
        weight_decay=5e-4,
        loader_workers=0,  # data takes under 5% of a step: measured, bench/NOTES.md
        config=AutoLRSConfig(
            total_steps=4300,
            lr_min=1e-3,
            lr_max=1.0,
        ),
    ),
}


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
            _Block(width, width, 1), _Block(width, 2 * width, 2), _Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        features: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input or its projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


def resnet50(classes: int) -> nn.Module:
    """Return torchvision's ResNet-50, in channels-last memory format."""
    model: nn.Module = torchvision.models.resnet50(num_classes=classes)
    return model.to(memory_format=torch.channels_last)


@dataclass
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

    @classmethod
    def from_preset(cls, preset: ImagePreset, folder: str) -> ImageTask:
        """Return the task of a preset, on the data in ``folder``."""
        task = cls(
            source=preset.source,
            folder=folder,
            global_batch_size=preset.global_batch_size,
            micro_batch_size=preset.micro_batch_size,
            weight_decay=preset.weight_decay,
        )
        task.precision = preset.precision
        task.loader_workers = preset.loader_workers
        return task

    def check_data(self) -> None:
        """Look whether the data is there, without reading ImageNet's images.

        Raises:
            ValueError: a file or folder is missing or malformed; the message names it.
        """
        if self.source == "imagenet":
            check_image_folder(Path(self.folder))
        else:
            self._small("train")
            self._small("test")

    def build_model(self) -> nn.Module:
        model: nn.Module
        if self.source == "imagenet":
            model = resnet50(class_count(Path(self.folder)))
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

    def _small(self, part: Literal["train", "validation", "test"]) -> SmallImages:
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
        dataset = self.test_dataset()
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=250, num_workers=self.loader_workers, collate_fn=self.collate
        )
        model.eval()
        sums = {"top1": 0.0, "top5": 0.0}
        count = 0
        with torch.no_grad():
            for batch in loader:
                size = len(batch[1])
                count += size
                for name, mean in self.metrics(model, to_device(batch, device)).items():
                    sums[name] += float(mean) * size
        return {f"test_{name}": total / count for name, total in sums.items()}


def _logits(model: nn.Module, batch: Any) -> Tensor:
    logits: Tensor = model(batch[0].contiguous(memory_format=torch.channels_last))
    return logits
