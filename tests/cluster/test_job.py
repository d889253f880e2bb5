from __future__ import annotations

import argparse
import json

import pytest
import torch

from ray_autolrs import AutoLRSConfig, GaussianProcess, Warmup
from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.cluster.fixed_lr import fit_fixed
from ray_autolrs.cluster.job import (
    add_common_arguments,
    config_from,
    cost_text,
    run_folder,
    run_job,
)
from ray_autolrs.training.step_timing import StepTiming
from ray_autolrs.training.worker import Worker
from tests.digits_task import DigitsTask, short_config


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common_arguments(parser, name="digits")
    return parser.parse_args(argv)


def test_settings_override_the_preset_by_path():
    arguments = parsed("--set", "total_steps=500", "--set", "search.choose_by=posterior_mean")
    config = config_from(arguments, short_config(seed=3))
    search = GaussianProcess(probes=4, validation_evals=8, choose_by="posterior_mean")
    assert config == short_config(total_steps=500, search=search, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("total_steps", r"--set total_steps must be PATH=VALUE, such as search.probe_steps=50"),
        ("steps=3", r"AutoLRSConfig has no setting 'steps'; it has total_steps, "),
        ("search.steps=3", r"GaussianProcess has no setting 'steps'; it has probes, "),
    ],
)
def test_unknown_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        config_from(parsed("--set", setting), short_config())


@pytest.mark.parametrize("lr", [(1e-3, 3.0), None])
def test_cost_counts_applied_and_probed_steps(lr):
    timing = StepTiming(10, wall_s=20.0, data_wait_s=1.0)
    if lr is None:  # is told before the range test
        text = cost_text(DigitsTask(), AutoLRSConfig(total_steps=400), 2, timing)
        assert "400 steps applied and about 48 probed in 6 stages, 32 samples a step on 2" in text
        return
    # Stages of 80, 160 and 160 steps, four probes of a tenth in each: 160 steps probed.
    text = cost_text(DigitsTask(), short_config(), 2, timing)
    assert "410 steps applied and about 160 probed in 3 stages, 32 samples a step on 2" in text
    assert "0.5 batches/s" in text
    assert "5.0% of it waiting for data" in text
    assert "19.0 min" in text


def run(path, *argv):
    said: list[str] = []
    arguments = parsed("--num-workers", "0", "--storage-path", str(path), *argv)
    metrics = run_job(
        DigitsTask(),
        config_from(arguments, short_config(total_steps=250)),
        arguments,
        say=said.append,
        test=lambda model, device: {
            "test_first_weight": model.state_dict()["0.weight"][0, 0].item()
        },
    )
    return metrics, "\n".join(said)


def test_a_job_tells_cost_table_and_results_and_continues_by_name(tmp_path):
    metrics, text = run(tmp_path)
    assert set(metrics) == {"loss", "accuracy", "test_first_weight"}
    assert metrics["accuracy"] > 0.5
    for part in (
        "steps applied and about",
        "batches/s",
        "probe steps",
        "validation: loss",
        "test:",
    ):
        assert part in text
    assert text.index("batches/s") < text.index("probe steps")
    assert json.loads((tmp_path / "digits" / "job.json").read_text())["seed"] == 0

    again, _ = run(tmp_path, "--loader-workers", "0")
    assert again == metrics, "a finished run gives its result again"
    with pytest.raises(ValueError, match=r"was started with precision=None, not 'bf16'"):
        run(tmp_path, "--precision", "bf16")


def test_fixed_lr_trains_as_many_steps_without_a_search(tmp_path):
    metrics, text = run(tmp_path, "--fixed-lr", "0.05")
    assert metrics["accuracy"] > 0.5
    assert "250 steps, no search" in text
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize("warmup", [Warmup(), Warmup(steps=30, power=2.0)])
def test_fixed_lr_warms_up_as_the_run_does(monkeypatch, warmup):
    applied: list[Apply] = []
    run_apply = Worker.run_apply

    def noted(self, apply, progress):
        applied.append(apply)
        return run_apply(self, apply, progress)

    monkeypatch.setattr(Worker, "run_apply", noted)
    config = AutoLRSConfig(total_steps=100, lr=(0.01, 1.0), warmup=warmup)
    fit_fixed(DigitsTask(), config, 0.05, torch.device("cpu"))
    shape = config.resolve(global_batch_size=32).plan().facts.shape
    (segment,) = (apply.segment for apply in applied)
    assert [segment.lr_at(step) for step in range(100)] == [
        0.05 * shape.factor(step) for step in range(100)
    ]
    assert segment.lr_at(0) < segment.lr_at(10) < segment.lr_at(99) == 0.05


def test_fixed_lr_ends_where_the_loss_diverges():
    _, metrics = fit_fixed(DigitsTask(), short_config(), 1e200, torch.device("cpu"))
    assert metrics["loss"] != metrics["loss"]


def test_run_folder_is_below_the_storage_path(tmp_path):
    folder = run_folder(parsed("--storage-path", str(tmp_path), "--name", "a"))
    assert folder.path == f"{tmp_path}/a"
    assert (tmp_path / "a").is_dir()
