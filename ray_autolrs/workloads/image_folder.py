"""ImageNet, or any images in folders by class, with the usual augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, of ImageNet's pixels scaled to [0, 1]. Source: torchvision's weights."""


def check_image_folder(folder: Path) -> None:
    """Check that both parts are there and have the same classes, without looking at images.

    Raises:
        ValueError: they do not; the message names the folder and what was expected.
    """
    for name in ("train", "val"):
        if not (folder / name).is_dir():
            raise ValueError(
                f"{folder / name} is not a folder: expected images in {folder}/train/<class>/ and "
                f"{folder}/val/<class>/"
            )
    classes = {name: _classes(folder / name) for name in ("train", "val")}
    if classes["train"] != classes["val"]:
        differing = sorted(classes["train"] ^ classes["val"])
        raise ValueError(
            f"{folder}: the classes of train/ and val/ differ, {differing[0]!r} is in one only: "
            "expected the same folders in both"
        )


def image_folder(folder: Path, part: Literal["train", "val"]) -> ImageFolder:
    """Return a part's images: cut and mirrored at random for training, from the centre for val.

    Args:
        folder: holds ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``.
        part: which of the two.

    Raises:
        ValueError: the folders are missing or empty, or their classes differ.
    """
    check_image_folder(folder)
    try:
        return ImageFolder(str(folder / part), _train_transform() if part == "train" else _eval())
    except FileNotFoundError as error:  # no class folder, or one without images
        raise ValueError(
            f"{folder / part} lacks images: expected at least one image in each class's folder "
            f"({error})"
        ) from error


def class_count(folder: Path) -> int:
    """Return the number of classes in ``folder``/train."""
    return len(_classes(folder / "train"))


def _classes(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir()}


def _train_transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def _eval() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
