"""The commands that the documents and the benches' docstrings tell can be run."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOLD_IN = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.py")),
]
PACKAGES = {
    "bench.gpu.folder",
    "bench.kill_matrix",
    "bench.leave_one_out",
    "bench.quality",
    "bench.scenarios",
}


def told_commands() -> set[str]:
    found: set[str] = set()
    for path in TOLD_IN:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"bench/\w+\.py --", text), path
        found |= {" ".join(c.split()) for c in re.findall(r"`python -m (bench\.[^`]*)`", text)}
        found |= set(re.findall(r"^ {4}python -m (bench\..*)$", text, re.MULTILINE))
    return {command for command in found if "NAME" not in command and "{" not in command}


def test_commands_are_told():
    names = {command.split()[0] for command in told_commands()}
    benches = {
        f"bench.{path.stem}"
        for path in (ROOT / "bench").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert names == benches | PACKAGES


@pytest.mark.parametrize("command", sorted(told_commands()))
def test_a_command_is_understood(command, monkeypatch):
    """Its options are parsed, and then it would measure."""
    name, *words = shlex.split(command)
    module = importlib.import_module(
        f"{name}.__main__" if name in PACKAGES - {"bench.gpu.folder"} else name
    )

    def stop(*args: object, **settings: object) -> None:
        raise InterruptedError

    for step in (
        "write_results",
        "make",
        "make_runs",
        "read_records",
        "read_cache",
        "read_runs",
        "try_inputs",
        "read",
        "rows_of",
    ):
        monkeypatch.setattr(module, step, stop, raising=False)
    monkeypatch.setattr("ray.init", lambda **settings: None)
    with pytest.raises(InterruptedError):
        module.main(words)
