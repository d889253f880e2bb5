"""The job as a person starts it, on tiny files."""

from __future__ import annotations

import pytest

from jobs.transformer_translation import main
from tests.workloads.parallel_files import write_parallel

SHORT = [
    *("--set", "total_steps=40", "--set", "warmup.steps=5", "--set", "search.probe_steps=8"),
    *("--set", "stages.first_steps=40", "--set", "stages.longest_steps=40"),
    *("--set", "stages.growth=1"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_names_presets_and_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in ("base", "small", "--num-workers", "--use-gpu", "--storage-path", "train.en"):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "none"], "none/train.en is missing: expected a text file"),
        (["--data", "data", "--target", "fr"], "data/train.fr is missing: expected a text file"),
        (["--data", "data", "--tokenizer", "no.json"], "no.json is missing: expected a tokenizer"),
        (["--data", "data", "--set", "seed=x"], "seed='x' must be an integer"),
    ],
)
def test_bad_arguments_and_data_are_one_clear_line(capsys, tmp_path, argv, message):
    write_parallel(tmp_path / "data")
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_small_runs_and_translates(capsys, tmp_path):
    data = write_parallel(tmp_path / "data", train=200)
    argv = ["--preset", "small", "--data", str(data), "--num-workers", "0", *SHORT]
    argv += ["--loader-workers", "0", "--set", "lr=[0.001, 0.003]"]
    metrics = main(argv)
    assert metrics["test_sentences"] == 10
    assert metrics["nll"] < 4.5, "an untrained model is at about 6"
    text = capsys.readouterr().out
    assert "cost: 40 steps applied and about 32 probed in 1 stages" in text
    assert "2 samples a step" in text
    assert (tmp_path / "runs" / "translation" / "tokenizer.json").exists()
