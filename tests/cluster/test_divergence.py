"""A run that truly diverges: its LR is too large for some steps, and right for all others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, AutoLRSResult, AutoLRSTrainer
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.training.epoch_order import epoch_order
from tests.cluster.tiny_runs import TinyTask, assert_same_run

STEPS = 600
STEEP = range(130, 190)
"""In the third stage, steps 108 to 251."""

SCALES = torch.tensor([1.0, 0.5, 0.25, 0.12])
MAP = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])


class Steep(TinyTask):
    """A linear map whose curvature is 50 times as large in some steps.

    Args:
        steepness: first coordinate of the samples in those steps; 0 leaves them as the others.
        breaks_after: as for ``TinyTask``.
    """

    def __init__(self, steepness: float, breaks_after: int | None = None) -> None:
        super().__init__(breaks_after)
        self.steepness = steepness

    def train_dataset(self) -> TensorDataset:
        samples = STEPS * self.global_batch_size
        x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1)) * SCALES
        y = x @ MAP + 0.01 * torch.randn(samples, 2, generator=torch.Generator().manual_seed(2))
        if self.steepness:
            first, count = (self.global_batch_size * n for n in (STEEP.start, len(STEEP)))
            steep = epoch_order(samples, 0, first, count)
            x[steep] = torch.tensor([self.steepness, 0.0, 0.0, 0.0])
            y[steep] = x[steep] @ MAP + 0.01
        return TensorDataset(x, y)

    def val_dataset(self) -> TensorDataset:
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(3)) * SCALES
        return TensorDataset(x, x @ MAP)


def trainer(storage: Path, task: TinyTask, name: str = "run") -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task,
        AutoLRSConfig(total_steps=STEPS, lr=(1e-3, 1.0)),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=name, storage_path=str(storage)),
    )


def peak_lrs(result: AutoLRSResult) -> list[float]:
    return [segment.peak_lr for segment in result.schedule.segments]


def diverged(result: AutoLRSResult, kind: str) -> list[int]:
    return [e["stage"] for e in result.events if e["kind"] == kind and e["diverged"]]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return trainer(tmp_path_factory.mktemp("undisturbed"), Steep(7.0)).fit()


def test_a_run_comes_back_from_a_divergence_and_its_lr_rises_again(result):
    assert diverged(result, "apply") == [3]
    assert len(diverged(result, "probe")) == 1
    found, second, third, *later = peak_lrs(result)
    assert second == found
    assert third == pytest.approx(found / 18)
    assert later == pytest.approx([found / 6, found / 2, found / 2])
    assert result.metrics["loss"] < 1e-3
    assert result.costs.lost_steps < 100


def test_it_ends_at_the_same_bits_if_it_is_killed_on_its_way_back(result, tmp_path):
    steps = sum(e["steps"] for e in result.events if e["kind"] == "probe" and e["stage"] < 3)
    # In the second probe after the divergence.
    with pytest.raises(OSError, match="the power is gone"):
        trainer(tmp_path, Steep(7.0, breaks_after=steps + 108 + 130), "broken").fit()
    log = (tmp_path / "broken" / "events.jsonl").read_text()
    assert '"kind": "apply", "stage": 3' in log
    assert '"attempt": 1' in log
    assert_same_run(trainer(tmp_path, Steep(7.0), "broken").fit(), result)


def test_a_run_that_diverges_at_every_lr_stops_with_its_last_good_checkpoint(tmp_path):
    with pytest.raises(SearchFailedError, match="every LR tried in stage 3 diverged") as told:
        trainer(tmp_path, Steep(100.0)).fit()
    path = told.value.checkpoint_path
    assert path == f"{tmp_path}/run/checkpoint_000000108"
    assert str(told.value).endswith(f"The last good checkpoint, of step 108, is {path}")
    assert torch.load(f"{path}/model.pt")["weight"].isfinite().all()
