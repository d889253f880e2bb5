"""The job as a person starts it, on a tiny text."""

from __future__ import annotations

import pytest

from jobs.bert_pretraining import main
from tests.workloads.text_files import write_documents

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
    for part in ("base", "tiny", "--num-workers", "--use-gpu", "--storage-path", "--tokenizer"):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "none.txt"], "none.txt is missing: expected a text file"),
        (["--data", "text", "--tokenizer", "no.json"], "no.json is missing: expected a tokenizer"),
        (["--data", "text", "--set", "lr=0"], "lr=0 must be an interval"),
    ],
)
def test_bad_arguments_and_data_are_one_clear_line(capsys, tmp_path, argv, message):
    write_documents(tmp_path / "text")
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_tiny_runs_and_continues_with_its_tokenizer(capsys, tmp_path):
    data = write_documents(tmp_path / "text", documents=120)
    argv = ["--preset", "tiny", "--data", str(data), "--num-workers", "0", *SHORT]
    argv += ["--loader-workers", "0"]
    metrics = main(argv)
    assert metrics["test_mlm_accuracy"] > 1.5 / 16, "better than one of 16 words at random"
    text = capsys.readouterr().out
    assert "cost: 40 steps applied and about 32 probed in 1 stages" in text
    tokenizer = tmp_path / "runs" / "bert" / "tokenizer.json"
    kept = tokenizer.read_text()
    assert main(argv) == metrics, "a finished run gives its result again"
    assert tokenizer.read_text() == kept
