"""Probes of several lengths, judged by the forks."""

from __future__ import annotations

import json
import math

import pytest

from bench import probe_lengths


def fork(task="vae", **ends):
    """Branches from half the LR found, 0.1, to four times of it, by name."""
    octaves = {"half": -1, "same": 0, "twice": 1, "four": 2}
    return {
        "task": task,
        "version": 1,
        "seed": 0,
        "start": 1.0,
        "steps": 2300,
        "found_lr": 0.1,
        "branches": {
            str(octaves[name]): {"finite": math.isfinite(end), "losses": [[1840, end]]}
            for name, end in ends.items()
        },
    }


@pytest.mark.parametrize(
    ("lr", "octaves", "regret"),
    [
        (0.2, 0.0, 0.0),
        (0.1, 1.0, 0.1),
        (0.1 * math.sqrt(2), 0.5, 0.05),
        (0.4, 1.0, 0.3),  # it diverged
        (0.0125, 4.0, 0.2),  # as far as the forks go
    ],
)
def test_an_lr_is_judged_by_the_branches_beside_it(lr, octaves, regret):
    found = probe_lengths.judge(lr, fork(half=1.2, same=1.1, twice=1.0, four=math.inf))
    assert found == pytest.approx((octaves, regret))


def test_the_table_has_the_tasks_that_all_lengths_were_tried_on(tmp_path, capsys):
    searches, runs = tmp_path / "searches.jsonl", tmp_path / "runs.jsonl"
    lines = [
        {
            "task": task,
            "version": 1,
            "seed": 0,
            "steps": 2300,
            "probe_steps": steps,
            "lr": lr,
            "probes": 4,
        }
        for task, lr in (("vae", 0.1), ("mlp", 0.2))
        for steps in (50, 100, 200)
        if (task, steps) != ("mlp", 200)
    ]
    searches.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs.write_text(json.dumps(fork(half=1.2, same=1.1, twice=1.0)) + "\n")
    probe_lengths.main(["--table", "--searches", str(searches), "--runs", str(runs)])
    shown = capsys.readouterr().out
    assert "1 tasks" in shown
    assert "| 50 | 1.00 | 10.0% | 10.0% | 8.7% |" in shown
