"""Benches that train whole runs, with few steps: they run, and tell what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench import further_tasks, insurance, wrong_guess
from ray_autolrs.workloads.small_images import FASHION_DEBIAN_FOLDER

Rows = list[dict[str, Any]]

needs_images = pytest.mark.skipif(
    not Path(FASHION_DEBIAN_FOLDER).is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows that a bench would write to a file."""
    rows: Rows = []

    def record(name: str, settings: dict[str, Any], found: Rows) -> str:
        rows.extend(found)
        return ""

    for bench in (further_tasks, insurance, wrong_guess):
        monkeypatch.setattr(bench, "record", record)
    return rows


@needs_images
def test_insurance_compares_a_misled_run_with_and_without_it(recorded: Rows):
    insurance.main(["--task", "mlp", "--factor", "1", "0.02", "--seed", "0", "--steps", "400"])
    good, misled = recorded
    assert good["undisturbed"] == good["without"]
    assert misled["without"] > 1.1 * misled["undisturbed"]
    assert misled["undisturbed"] < misled["with"] < misled["without"]
    assert misled["search_with"] > misled["search_without"]
    won = misled["without"] - misled["with"]
    assert misled["won_back"] == pytest.approx(won / (misled["without"] - misled["undisturbed"]))


@needs_images
def test_a_wrong_guess_is_compared_with_the_right_one(recorded: Rows):
    wrong_guess.main(["--task", "mlp", "--factor", "0.125", "--seed", "0", "--steps", "120"])
    right, wrong = recorded
    assert (right["factor"], right["over_undisturbed"]) == (1.0, 1.0)
    assert wrong["over_undisturbed"] == wrong["validation_loss"] / right["validation_loss"]


def test_further_tasks_tune_a_rival_on_the_first_seed(recorded: Rows):
    arguments = ["--task", "digits", "--method", "autolrs", "wsd", "--seed", "0", "1"]
    further_tasks.main([*arguments, "--steps", "60"])
    ours, rival = recorded
    assert (ours["lr"], rival["lr"] in further_tasks.TASKS["digits"][1]) == (None, True)
    assert ours["search"] > 0 == rival["search"]
    for row in recorded:
        assert len(row["losses"]) == 2
        assert all(map(math.isfinite, row["losses"]))
        pairs = zip(row["losses"], row["at_the_end"], strict=True)
        assert all(lowest <= last for lowest, last in pairs)
