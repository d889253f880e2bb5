"""The job as a person starts it, on tiny files."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from jobs import resnet_imagenet
from jobs.resnet_imagenet import main
from tests.workloads.image_files import write_fashion, write_image_folder

SHORT = [
    *("--set", "total_steps=40", "--set", "warmup.steps=5", "--set", "search.probe_steps=8"),
    *("--set", "stages.first_steps=40", "--set", "stages.longest_steps=40"),
    *("--set", "stages.growth=1"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(capsys, *argv: str) -> str:
    """Return what a job that is refused its arguments writes."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_help_names_presets_and_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in ("imagenet", "cifar10", "fashion", "--num-workers", "--use-gpu", "--storage-path"):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--preset imagenet needs --data"),
        (["--data", "none"], "none lacks images: expected them in"),
        (["--preset", "fashion", "--data", "none"], "none is not a folder: expected Fashion-MNIST"),
        (["--preset", "cifar10", "--data", "none"], "none lacks CIFAR-10: expected"),
        (["--data", "images", "--set", "lr=[-1, 1]"], "lr=(-1, 1) must be (low, high)"),
    ],
)
def test_bad_arguments_and_data_are_one_clear_line(capsys, tmp_path, argv, message):
    write_image_folder(tmp_path / "images")
    assert message in refusal(capsys, *argv)


def test_fashion_runs_in_this_process(capsys, tmp_path):
    data = write_fashion(tmp_path / "data")
    metrics = main(["--preset", "fashion", "--data", str(data), "--num-workers", "0", *SHORT])
    assert metrics["test_top1"] > 0.9
    text = capsys.readouterr().out
    assert "cost: 40 steps applied and about 32 probed in 1 stages" in text
    assert "test: test_top1" in text
    assert (tmp_path / "runs" / "resnet" / "schedule.json").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_fashion_runs_on_two_ray_workers(tmp_path):
    data = write_fashion(tmp_path / "data")
    address = ray.get_runtime_context().gcs_address
    arguments = ["--preset", "fashion", "--data", str(data), "--address", address, *SHORT]
    done = subprocess.run(
        [sys.executable, resnet_imagenet.__file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "128 samples a step on 2 worker(s)" in done.stdout
    assert "test: test_top1" in done.stdout
