"""Forks of a run, and the rules that are tried on them."""

from __future__ import annotations

import json
import math

import pytest

from bench import lr_forks, raise_rule


def fork(directness, ends, after_100):
    """A run with a branch for each octave from 0 on: its loss after 100 steps, and its end."""
    branches = {
        str(octaves): {"finite": True, "losses": [[100, early], [1840, end]]}
        for octaves, (early, end) in enumerate(zip(after_100, ends, strict=True))
    }
    return {
        "steps": 2000,
        "initial": 3.0,
        "trunk": {"directness": [[460, directness]]},
        "branches": branches,
    }


@pytest.mark.parametrize(
    ("directness", "after_100", "raises"),
    [
        (1.3, (2.0, 1.9, 1.8), 2),
        (1.3, (2.0, 1.9, 1.95), 1),
        (1.3, (2.0, 2.01, 1.95), 2),  # within the tolerance
        (1.3, (2.0, 2.03, 1.5), 0),
        (1.1, (2.0, 1.9, 1.8), 0),
        (None, (2.0, 1.9, 1.8), 0),
    ],
)
def test_a_rule_raises_while_the_higher_branch_is_lower(directness, after_100, raises):
    ends = (1.2, 1.1, 1.0)
    found = raise_rule.outcome(fork(directness, ends, after_100), 1.2, 100, 0.02)
    assert found.raises == raises
    assert found.regret == pytest.approx(ends[raises] / 1.0 - 1)
    looks = 0 if directness != 1.3 else min(2, raises + 1)
    assert found.cost == pytest.approx(looks * 0.05)


def test_a_branch_that_diverged_is_infinitely_high():
    assert lr_forks.lowest_loss({"finite": False, "losses": [[100, 1.0]]}) == math.inf


def test_a_task_is_forked_and_its_rules_are_told(tmp_path, capsys):
    runs = tmp_path / "forks.jsonl"
    options = ["--steps", "60", "--processes", "0", "--runs", str(runs)]
    lr_forks.main(["--task", "diabetes", "tumours", *options])
    lr_forks.main(["--task", "diabetes", *options])  # it is there
    first, second = map(json.loads, runs.read_text().splitlines())
    assert {first["task"], second["task"]} == {"diabetes", "tumours"}
    assert {"-1", "0", "1"} <= first["branches"].keys()
    assert first["trunk"]["directness"][-1][0] == 12
    capsys.readouterr()
    raise_rule.main(["--runs", str(runs)])
    told = capsys.readouterr().out
    assert told.startswith("2 tasks")
    assert "| regression and autoencoders |" in told
