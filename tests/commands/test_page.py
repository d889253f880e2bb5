"""The commands of docs/command_line.md, in their order, with its task."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from ray_autolrs.commands.command_line import OK, main

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()


def commands() -> list[list[str]]:
    shell = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in shell.splitlines()]


def test_commands_of_the_page(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_task.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)  # the README's, of another test
    assert len(commands()) > 10
    for name, *words in commands():
        assert name == "ray-autolrs"
        assert main(words) == OK, (words, capsys.readouterr().err)
    runs = tmp_path / "runs"
    assert {path.name for path in runs.iterdir()} == {"line", "guess", "other", "wsd"}
    assert list((runs / "other" / "tensorboard").glob("events.out.tfevents.*"))
    assert (tmp_path / "lrs.csv").read_text().count("\n") == 101
    for image in ("lrs.png", "wsd.png"):
        assert (tmp_path / image).stat().st_size > 0
    for page in (runs / "other" / "report.html", tmp_path / "wsd.html"):
        assert "<html" in page.read_text(encoding="utf-8")
    assert (tmp_path / "wsd.csv").read_text().startswith("kind,")
