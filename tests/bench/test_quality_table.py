from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from bench.quality.__main__ import PAGE, main
from bench.quality.table import Mean, page, speedups
from ray_autolrs.comparison.record import RunRecord, steps_to
from ray_autolrs.comparison.table import tuned_methods
from tests.bench.records import record


def test_the_page_is_that_of_the_records_on_file(tmp_path):
    main(["--table", "--page", str(tmp_path / "quality.md")])
    assert (tmp_path / "quality.md").read_text() == PAGE.read_text()


def synthetic():
    """Two tasks; the grid was run on seed 0; AutoLRS is better on one and worse on the other."""
    records = {}
    for task, ours in (("cnn", 0.30), ("rnn", 0.42)):
        runs = [record("cosine", lr, 0, loss) for lr, loss in ((0.1, 0.5), (0.3, 0.4), (1.0, 0.6))]
        runs += [record("cosine", 0.3, seed, 0.4 + 0.01 * seed) for seed in (1, 2)]
        runs += [record("wsd", lr, 0, loss) for lr, loss in ((0.1, 0.45), (0.3, math.inf))]
        runs += [record("wsd", 0.1, seed, 0.45) for seed in (1, 2)]
        runs += [
            record(
                "autolrs",
                None,
                seed,
                ours + 0.01 * seed,
                search_steps=10.0,
                curve=((50, 0.5), (100, ours + 0.01 * seed)),
            )
            for seed in (0, 1, 2)
        ]
        for run in runs:
            records[task, run.method, run.lr, run.seed, run.steps] = run
    return records


def test_the_page_holds_every_figure():
    text = page(synthetic(), 100)
    summary = next(line for line in text.splitlines() if line.startswith("| cnn "))
    assert summary.split(" | ")[1:5] == ["0.31", "cosine", "0.41", "-0.1000 ± 0.0000"]
    # Seed 0: half of the way from 0.5 at step 50 to 0.3 at step 100, so 75 steps to 0.4.
    needed = [75, 50 + 50 * 9 / 19, 50 + 50 * 8 / 18]
    plain = statistics.geometric_mean(100 / steps for steps in needed)
    charged = statistics.geometric_mean(100 / (steps + 10) for steps in needed)
    assert summary.split(" | ")[7:10] == ["10.0%", f"{plain:.2f}", f"{charged:.2f}"]
    assert "| rnn (held out) |" in text
    assert "+0.0200 ± 0.0000" in text
    assert "## rnn, held out" in text
    cosine = next(line for line in text.splitlines() if line.startswith("| cosine | 0.3 |"))
    assert "0.4000 / 0.4100 / 0.4200" in cosine
    assert "0.5000 / 0.5100 / 0.5200" in cosine
    assert "| 300 |" in cosine  # three LRs on the tuning seed
    assert "| wsd | 0.1* |" in text
    assert "by validation loss on seed 0, and" in text
    assert "Means over the 2 tasks" in text
    assert "- difference in validation loss: -0.0400 ± " in text


def test_the_page_of_other_steps_is_refused():
    with pytest.raises(ValueError, match="no task has runs of both autolrs and cosine with 7"):
        page(synthetic(), 7)


def test_speedups_count_a_run_that_does_not_get_there_as_one():
    methods = tuned_methods(run for key, run in synthetic().items() if key[0] == "rnn")
    assert speedups(methods["autolrs"], methods["cosine"], with_search=True) == [1.0, 1.0, 1.0]


def test_means_and_their_intervals():
    # t of 2 degrees of freedom at 97.5% is 4.303.
    assert Mean.of([1.0, 2.0, 3.0]).half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert Mean.of([1.0]).half_width is None


def test_records_survive_the_file_and_refuse_nonsense():
    run = record("cosine", 0.1, 0, math.inf)
    assert RunRecord.from_dict(run.to_dict()) == run
    assert steps_to(record("cosine", 0.1, 0, 0.4), 0.9) == 75.0
    with pytest.raises(ValueError, match="finite exactly if it did not diverge"):
        dataclasses.replace(run, diverged=False)
