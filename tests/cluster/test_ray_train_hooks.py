"""Ray Train's own hooks see a run's metrics, and its settings are followed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ray.train import CheckpointConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer
from ray_autolrs.algorithm.stages.messages import ApplyDone, Ready
from ray_autolrs.cluster.ray_train_hooks import metrics_of, worst_score
from tests.cluster.tiny_runs import TinyTask


class Reported(UserCallback):
    """Writes what each report holds; it is called in the controller's process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def after_report(self, run_context, metrics, checkpoint):
        line = {
            "metrics": metrics,
            "backend": run_context.backend_config.backend,
            "timeout_s": run_context.backend_config.timeout_s,
        }
        with Path(self.path).open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.mark.ray
def test_callbacks_scores_and_the_process_group(ray_cluster, tmp_path):
    reports = tmp_path / "reports.jsonl"
    result = AutoLRSTrainer(
        TinyTask(),
        AutoLRSConfig(total_steps=100, lr=(1e-3, 0.3)),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name="hooks",
            storage_path=str(tmp_path),
            callbacks=[Reported(str(reports))],  # type: ignore[list-item]
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="loss", checkpoint_score_order="min"
            ),
        ),
        torch_config=TorchConfig(backend="gloo", timeout_s=77),
    ).fit()
    told = [json.loads(line) for line in reports.read_text().splitlines()]
    assert {(line["backend"], line["timeout_s"]) for line in told} == {("gloo", 77)}
    means = dict(result.metrics_dataframe.to_numpy().tolist())
    losses = {m["step"]: m["loss"] for line in told for m in line["metrics"] if m["step"] > 0}
    assert losses == means
    # The newest stays beside the best, so that the run could have gone on.
    kept = {metrics["step"] for _, metrics in result.best_checkpoints}
    assert kept == {min(means, key=means.__getitem__), 100}


def test_metrics_of_a_stage_are_those_of_its_end():
    done = ApplyDone(2, 0, (1.0, 0.5), False, 1.0, ((15, "loss", 3.0), (20, "loss", 2.0)))
    assert metrics_of(done) == {"loss": 2.0, "training_loss": 0.5, "stage": 2.0}
    assert metrics_of(ApplyDone(2, 0, (1.0,), True, 1.0)) == {}
    assert metrics_of(Ready(0)) == metrics_of(None) == {}


@pytest.mark.parametrize(("order", "sign"), [("min", 1), ("max", -1)])
def test_a_checkpoint_without_validation_has_the_worst_score(order, sign):
    kept = CheckpointConfig(checkpoint_score_attribute="loss", checkpoint_score_order=order)
    score = worst_score(RunConfig(checkpoint_config=kept))
    assert score == {"loss": sign * sys.float_info.max}
    assert worst_score(RunConfig()) == {}
