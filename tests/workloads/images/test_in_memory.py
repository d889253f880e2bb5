from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from ray_autolrs.workloads.images.in_memory import SmallImages, cifar10, fashion_mnist
from tests.workloads.image_files import idx_bytes, write_fashion


def test_fashion_mnist_is_cut_into_three_parts(tmp_path):
    folder = write_fashion(tmp_path, train=320, test=40)
    train, validation, test = (
        fashion_mnist(folder, part) for part in ("train", "validation", "test")
    )
    assert (len(train), len(validation), len(test)) == (288, 32, 40)
    image, label = test[1]
    assert image.shape == (1, 28, 28)
    assert label == 1
    assert image[0, 20:].mean() > image[0, :8].mean() + 1, "class 1 is bright at the bottom"


def test_batches_are_normalised_with_the_training_set(tmp_path):
    folder = write_fashion(tmp_path)
    train = fashion_mnist(folder, "train")
    test = fashion_mnist(folder, "test").normalised_as(train)
    images, _ = test.__getitems__(range(40))
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05


def test_augmentation_cuts_and_mirrors_each_image():
    picture = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(200, -1, -1, -1)
    images = SmallImages(picture, torch.zeros(200, dtype=torch.int64), pad=1)
    torch.manual_seed(0)
    batch, _ = images.__getitems__(range(200))
    pixels = (batch * images.std + images.mean).round().to(torch.uint8)
    padded = torch.nn.functional.pad(picture[0, 0], (1, 1, 1, 1))
    cuts = {
        tuple(cut.flatten().tolist()): (top, left, mirrored)
        for top in range(3)
        for left in range(3)
        for mirrored in (False, True)
        for cut in [padded[top : top + 8, left : left + 8].flip(1) if mirrored
                    else padded[top : top + 8, left : left + 8]]
    }  # fmt: skip
    seen = {cuts[tuple(image.flatten().tolist())] for image in pixels}
    assert len(seen) == 18, "200 draws meet each of 18 possible cuts"


def test_augmentation_follows_the_global_seed():
    images = SmallImages(
        torch.randint(0, 255, (9, 3, 8, 8), dtype=torch.uint8), torch.arange(9), pad=2
    )
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append(images.__getitems__([3, 4, 5])[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_refuses_a_missing_folder_and_says_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"/none is not a folder.*dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "none", "train")


def test_refuses_images_and_labels_that_disagree(tmp_path):
    folder = write_fashion(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match="t10k-images holds 40 images and t10k-labels 3 labels"):
        fashion_mnist(folder, "test")


def test_refuses_a_folder_without_cifar10(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} lacks CIFAR-10: expected its folder cifar"):
        cifar10(tmp_path, "train")


def test_reads_cifar10_as_torchvision_leaves_it(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels[name] = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = {"data": pixels[name], "labels": [number % 10 for number in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    train, test = cifar10(tmp_path, "train"), cifar10(tmp_path, "test")
    assert (len(train), len(test)) == (90, 20)
    assert torch.equal(test.images[3].flatten(), torch.tensor(pixels["test_batch"][3]))
    assert test.labels.tolist() == [number % 10 for number in range(20)]
