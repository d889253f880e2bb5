from __future__ import annotations

import shutil

import pytest
import torch

from ray_autolrs.workloads.images.folder import class_names, image_folder
from tests.workloads.image_files import write_image_folder


def test_reads_both_parts(tmp_path):
    folder = write_image_folder(tmp_path)
    assert class_names(folder) == ["ant", "bee"]
    train, val = image_folder(folder, "train"), image_folder(folder, "val")
    assert (len(train), len(val)) == (8, 8)
    image, label = val[7]
    assert image.shape == (3, 224, 224)
    assert label == 1
    assert image[:, 150:].mean() > image[:, :50].mean() + 1
    assert torch.equal(image, val[7][0]), "nothing random in validation"
    assert not torch.equal(train[0][0], train[0][0]), "training images are cut at random"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("val", r"lacks images: expected them in .*/train/<class>/ and .*/val'"),
        ("val/bee", r"the classes of train/ and val/ differ, 'bee' is in one only"),
    ],
)
def test_refuses_missing_folders(tmp_path, missing, message):
    folder = write_image_folder(tmp_path)
    shutil.rmtree(folder / missing)
    with pytest.raises(ValueError, match=message):
        class_names(folder)


def test_refuses_a_class_without_images(tmp_path):
    folder = write_image_folder(tmp_path)
    for file in (folder / "val" / "ant").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"/val lacks images: expected at least one"):
        image_folder(folder, "val")
