from __future__ import annotations

import argparse
import json

import pytest
import torch

from ray_autolrs.cluster.job import (
    add_common_arguments,
    config_from,
    cost_text,
    fit_fixed,
    run_folder,
    run_job,
)
from ray_autolrs.training.step_timing import StepTiming
from tests.digits_task import DigitsTask, short_config


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common_arguments(parser, name="digits")
    return parser.parse_args(argv)


def test_settings_override_the_preset():
    arguments = parsed("--set", "total_steps=500", "--set", "search.choose_by=posterior_mean")
    config = config_from(arguments, short_config(seed=3))
    assert (config.total_steps, config.search.choose_by, config.seed) == (500, "posterior_mean", 0)


@pytest.mark.parametrize("setting", ["total_steps", "steps=3"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(ValueError, match=rf"--set {setting} must be FIELD=VALUE.*total_steps, "):
        config_from(parsed("--set", setting), short_config())


def test_cost_counts_applied_and_probed_steps():
    # Stages of 80, 160 and 160 steps, four probes of a tenth in each: 160 steps probed.
    text = cost_text(DigitsTask(), short_config(), 2, StepTiming(10, wall_s=20.0, data_wait_s=1.0))
    assert "410 steps applied and up to 160 probed in 3 stages, 32 samples a step" in text
    assert "0.5 batches/s" in text
    assert "5.0% of it waiting for data" in text
    assert "19.0 min" in text


def run(path, *argv):
    said: list[str] = []
    arguments = parsed("--num-workers", "0", "--storage-path", str(path), *argv)
    metrics = run_job(
        DigitsTask(),
        config_from(arguments, short_config()),
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
        "steps applied and up to",
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
    assert "410 steps, no search" in text
    assert not (tmp_path / "digits").exists()


def test_fixed_lr_ends_where_the_loss_diverges():
    worker, metrics = fit_fixed(DigitsTask(), short_config(), 1e200, torch.device("cpu"))
    assert metrics["loss"] != metrics["loss"]
    assert worker.snapshot.step < 410


def test_run_folder_is_below_the_storage_path(tmp_path):
    folder = run_folder(parsed("--storage-path", str(tmp_path), "--name", "a"))
    assert folder.path == f"{tmp_path}/a"
    assert (tmp_path / "a").is_dir()
