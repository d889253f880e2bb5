"""README.md as a reader follows it: its commands, its task, its figures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ray_autolrs.commands.command_line import OK, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)

MOST_WORDS = 700


def commands() -> list[list[str]]:
    shell = "".join(text for language, text in BLOCKS if language == "sh")
    return [shlex.split(line) for line in shell.splitlines()]


def test_it_is_short():
    assert len(README.split()) < MOST_WORDS


def test_every_command_is_known_here():
    """A command that is added has to be added to a test below."""
    assert [words[:2] for words in commands()] == [
        ["pip", "install"],
        ["ray-autolrs", "demo"],
        ["ray-autolrs", "train"],
    ]


def test_install():
    """What pip would do, but for what is installed already."""
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    ran = subprocess.run(
        [sys.executable, "-m", *commands()[0], *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "does not provide the extra" not in ran.stderr


@pytest.mark.parametrize("target", ["demo", "test", "docs", "bench"])
def test_make_targets(target):
    """Those of README.md and CONTRIBUTING.md."""
    assert f"make {target}" in README + (ROOT / "CONTRIBUTING.md").read_text()
    # As from a shell of its own, also where `make test` runs this.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    planned = subprocess.run(
        ["make", "--dry-run", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    last = {
        "demo": ".venv/bin/python jobs/quickstart.py",
        "test": ".venv/bin/python -m pytest",
        "docs": ".venv/bin/mkdocs build",
        "bench": ".venv/bin/python -m bench.",
    }
    assert planned.splitlines()[-1].startswith(last[target])
    assert "pip install" in planned or (ROOT / ".venv").exists()


def test_demo_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    """In this process and for fewer steps; tests/jobs/ runs the job with two workers."""
    (shown,) = (text for language, text in BLOCKS if language == "" and "stage" in text)
    monkeypatch.chdir(tmp_path)
    _, *words = commands()[1]
    assert main([*words, "--num-workers", "0", "--total-steps", "60"]) == OK
    printed = capsys.readouterr().out.strip()
    headers = [text.strip().splitlines()[0].split() for text in (shown, printed)]
    assert headers[0] == headers[1]
    for text in (shown, printed):
        _, *rows, total = text.strip().split("\n\n")[0].splitlines()
        assert len(rows) >= 3
        assert total.split()[0] == "sum"
    for line in (r"validation: \{'loss': .*\}", r"test accuracy: 0\.\d+", r"files: .*quickstart"):
        assert re.search(line, shown)
        assert re.search(line, printed)
    run = tmp_path / "runs" / "quickstart"
    assert (run / "report.html").is_file()
    search = json.loads((run / "config.json").read_text())["settings"]["search"]
    assert search["type"] == "Bracket"


def test_own_task(tmp_path, monkeypatch, capsys):
    (task,) = (text for language, text in BLOCKS if language == "python")
    (tmp_path / "my_task.py").write_text(task)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)  # a page's, of another test
    _, *words = commands()[2]
    assert main(words) == OK, capsys.readouterr().err
    left = {path.name for path in (tmp_path / "runs" / "digits").iterdir()}
    assert {"config.json", "events.jsonl", "schedule.json", "report.html"} <= left
    assert list((tmp_path / "runs" / "digits").glob("checkpoint_*/model.pt"))


def test_links_to_files():
    for name in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / name).exists(), name


def test_figures_are_those_of_the_bench():
    (figures,) = re.findall(r"## How good it is\n(.*?)\n## ", README, re.DOTALL)
    measured = (ROOT / "bench" / "quality.md").read_text()
    means = [line for line in figures.splitlines() if line.startswith("- ")]
    assert len(means) == 3
    assert all(line in measured for line in means)
    (table,) = re.findall(r"## Against the best tuned rival\n(.*?)\nMeans", measured, re.DOTALL)
    rows = [_cells(line) for line in table.splitlines() if line.startswith("| ")][2:]
    shown = [_cells(line) for line in figures.splitlines() if line.startswith("| ")][2:]
    assert shown == [[task, ours, loss, by] for task, ours, _, loss, by, *_ in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
