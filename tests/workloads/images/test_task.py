from __future__ import annotations

import pytest
import torch
from torch import nn

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.workloads.images.task import PRESETS, SmallResNet
from tests.workloads.image_files import write_fashion, write_image_folder


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_resnet_gives_a_logit_for_each_class():
    model = SmallResNet(channels=3, width=8, stem_stride=1, classes=7)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert parameters(SmallResNet(channels=1, width=16, stem_stride=2)) == 77_754


def test_fashion_preset_learns_in_a_few_steps(tmp_path):
    task = PRESETS["fashion"].task(folder=str(write_fashion(tmp_path)))
    task.global_batch_size = 32
    engine = Engine(task, Solo(), torch.device("cpu"), seed=0)
    losses = engine.loss_table(30)
    assert [*engine.steps(0, 30, lambda step: 0.05, losses)][-1] == 30
    assert losses[-1] < 0.2 < losses[0]
    measured = task.test(engine.replica.module, torch.device("cpu"))
    assert measured["test_top1"] > 0.9
    assert measured["test_top5"] >= measured["test_top1"]


def test_metrics_count_the_first_and_the_five_first_classes(tmp_path):
    task = PRESETS["fashion"].task(folder=str(tmp_path))

    class Fixed(nn.Module):
        def forward(self, images):
            return torch.arange(10.0).expand(4, -1)

    # The highest logit is class 9, the five highest are 5 to 9.
    means = task.metrics(Fixed(), (torch.zeros(4, 1, 2, 2), torch.tensor([9, 5, 4, 0])))
    assert means["top1"] == 0.25
    assert means["top5"] == 0.5


def test_imagenet_batches_are_channels_last_for_the_model(tmp_path):
    task = PRESETS["imagenet"].task(folder=str(write_image_folder(tmp_path)))
    task.check_data()
    dataset = task.train_dataset()
    images, labels = task.collate([dataset[0], dataset[7]])
    assert images.shape == (2, 3, 224, 224)
    assert labels.tolist() == [0, 1]
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return torch.zeros(2, 2)

    assert task.loss(Watched(), (images, labels)) == pytest.approx(0.6931, abs=1e-4)
    assert seen == [True]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name, tmp_path):
    task = PRESETS[name].task(folder=str(tmp_path))
    task.check_settings()
    for num_workers in (1, 2, 4, 8):
        assert task.resolved_micro_batch_size(num_workers) >= 16
    group = task.build_optimizer(SmallResNet(channels=1, width=2, stem_stride=2)).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.9, False)


def test_full_size_follows_the_paper(tmp_path):
    config = PRESETS["imagenet"].config
    assert PRESETS["imagenet"].task(folder=str(tmp_path)).global_batch_size == 1024
    assert config.stages == Stages(first_steps=1000, longest_steps=8000)
    assert config.search == GaussianProcess(probe_fraction=0.1, probes=10, kappa=1000.0)
