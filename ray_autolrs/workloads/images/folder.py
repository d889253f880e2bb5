"""ImageNet, or any images in folders by class, with the usual augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes

_TO_NORMALISED = [
    transforms.ToTensor(),
    # Per channel, of ImageNet's pixels scaled to [0, 1]. Source: torchvision's weights.
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]
TRANSFORMS = {
    "train": [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()],
    "val": [transforms.Resize(256), transforms.CenterCrop(224)],
}
"""Cut and mirrored at random for training, from the centre for validation."""


def class_names(folder: Path) -> list[str]:
    """Return the classes, the same of ``train/`` and ``val/``, without looking at images.

    Raises:
        ValueError: a folder is missing, or the classes differ.
    """
    try:
        train, val = (find_classes(str(folder / part))[0] for part in TRANSFORMS)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} lacks images: expected them in {folder}/train/<class>/ and "
            f"{folder}/val/<class>/ ({error})"
        ) from error
    if train != val:
        differing = min({*train} ^ {*val})
        raise ValueError(
            f"{folder}: the classes of train/ and val/ differ, {differing!r} is in one only: "
            "expected the same folders in both"
        )
    return list(train)


def image_folder(folder: Path, part: Literal["train", "val"]) -> ImageFolder:
    """Return a part's images, which lie in ``folder``/part/class.

    Raises:
        ValueError: the folders are missing or empty, or their classes differ.
    """
    class_names(folder)
    transform = transforms.Compose([*TRANSFORMS[part], *_TO_NORMALISED])
    try:
        return ImageFolder(str(folder / part), transform)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder / part} lacks images: expected at least one in each class's folder ({error})"
        ) from error
