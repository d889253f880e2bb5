"""The tables of the leave-one-group-out bench, on runs that were never made."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bench.leave_one_out.choice import leave_one_group_out
from bench.leave_one_out.comparison import Difference, Interval, best_of, difference, tuned_by_task
from bench.leave_one_out.equal_cost import (
    Halving,
    affordable_plans,
    halving_loss,
    loss_at,
    random_loss,
    runs_to_draw_level,
)
from bench.leave_one_out.grid_walk import next_runs
from bench.leave_one_out.page import page
from bench.leave_one_out.registry import LR_ORACLE, METHODS, OTHER_RIVALS
from bench.leave_one_out.regret import gap
from bench.leave_one_out.runs import at_best_lr, estimated_minutes, near_oracle, plan
from bench.leave_one_out.store import CachedRun, append, read_cache
from bench.tasks.suite import SUITE
from tests.bench.records import record


def run(task, method, lr, seed, loss, **values):
    return CachedRun(
        task=task,
        task_version=SUITE[task].version,
        group=SUITE[task].group,
        version=METHODS[method].version,
        found_lr=values.pop("found_lr", None),
        record=record(method, lr, seed, loss, **values),
    )


def cache_of(*runs):
    return {one.key: one for one in runs}


def grid(task, method, losses, seeds=(0, 1)):
    """Runs of a whole grid, whose losses rise a little with the seed."""
    lrs = METHODS[method].lrs(SUITE[task])
    return [
        run(task, method, lr, seed, loss + 0.01 * seed)
        for lr, loss in zip(lrs, losses, strict=True)
        for seed in seeds
    ]


def synthetic():
    """Two tasks of two groups: ahead on digits, behind on vae."""
    runs = []
    for task, ours in (("digits", 0.36), ("vae", 0.44)):
        runs += grid(task, "cosine", (0.8, 0.5, 0.4, 0.6, math.inf))
        runs += grid(task, "wsd", (0.8, 0.6, 0.5, 0.6, 0.9))
        runs += [
            run(task, "autolrs", None, seed, ours + 0.01 * seed, found_lr=0.5, search_steps=10.0)
            for seed in (0, 1)
        ]
        octaves = METHODS[LR_ORACLE].lrs(SUITE[task])
        runs += grid(task, LR_ORACLE, [0.35 + abs(place - 3) for place in range(len(octaves))])
    return cache_of(*runs)


def test_a_difference_within_twice_its_error_is_a_tie():
    two = Difference.of([-0.01, -0.05])
    assert two.value == pytest.approx(-0.03)
    assert two.error == pytest.approx(0.02)
    assert two.verdict == "tie"
    assert Difference.of([-0.04, -0.05]).verdict == "ahead"
    assert Difference.of([0.04, 0.05]).verdict == "behind"
    assert Difference.of([0.04]).verdict == ""
    assert Difference.of([math.inf, 0.0]).verdict == "behind"


def test_an_interval_over_groups():
    # t of 2 degrees of freedom at 97.5% is 4.303.
    assert Interval.of([1.0, 2.0, 3.0]).half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert Interval.of([1.0]).half_width is None


def test_rivals_have_their_best_lr_and_the_best_rival_is_found():
    methods = tuned_by_task(synthetic(), 100)["digits"]
    rival = best_of(methods, ("cosine", "wsd"), (0, 1))
    assert rival is methods["cosine"]
    assert rival.lr == SUITE["digits"].lrs[2]
    found = difference(methods["autolrs"], rival)
    assert found is not None
    assert found.value == pytest.approx((-0.04 / 0.4 - 0.04 / 0.41) / 2)
    assert best_of(methods, ("prodigy",), (0, 1)) is None


def test_runs_of_other_versions_and_steps_are_left_out():
    old = dataclasses.replace(run("vae", "cosine", 1e-3, 0, 0.1), version="older")
    made = dataclasses.replace(run("vae", "wsd", 1e-3, 0, 0.1), task_version=99)
    assert tuned_by_task(cache_of(old, made), 100) == {}
    assert tuned_by_task(synthetic(), 101) == {}


def test_a_variant_is_chosen_without_the_group_that_judges_it():
    groups = {"a": "x", "b": "x", "c": "y", "d": "z"}
    scores = {
        "default": {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0},
        # Best of all in the mean, by one group alone.
        "lucky": {"a": 0.01, "b": 0.01, "c": -0.9, "d": 0.01},
    }
    judged = {one.group: one for one in leave_one_group_out(scores, groups)}
    assert judged["y"].chosen == "default"
    assert (judged["y"].value, judged["y"].best) == (0.0, -0.9)
    assert judged["x"].chosen == "lucky"
    assert judged["x"].value == pytest.approx(0.01)
    with pytest.raises(ValueError, match="two groups"):
        leave_one_group_out(scores, dict.fromkeys(groups, "x"))


def test_a_variant_counts_only_on_tasks_that_all_have():
    scores = {"default": {"a": 0.0, "b": 0.0, "c": 5.0}, "other": {"a": -1.0, "b": -1.0}}
    judged = leave_one_group_out(scores, {"a": "x", "b": "y", "c": "y"})
    assert [(one.chosen, one.value, one.default) for one in judged] == [("other", -1.0, 0.0)] * 2


def test_regret_is_to_the_oracles_lr():
    found = gap(tuned_by_task(synthetic(), 100)["digits"])
    assert found.lr is not None
    assert found.to_rival is not None
    assert found.rest is not None
    assert found.lr.value == pytest.approx((0.01 / 0.35 + 0.01 / 0.36) / 2)
    assert found.to_rival.value < 0
    assert found.rest.value < found.to_rival.value
    assert (found.beta, found.both) == (None, None)


TO_HALF = Halving(2, (2, 1), (0.5, 1.0))
"""Two rates begin, and the better one at half goes on."""


def test_the_cost_of_halving_keeps_to_its_budget():
    assert TO_HALF.cost == 1.5
    for budget, most in ((1.0, 1), (1.15, 3), (1.5, 5), (3.0, 5)):
        plans = affordable_plans(5, budget)
        assert max(plan.configurations for plan in plans) == most
        assert all(plan.cost <= budget + 1e-9 for plan in plans)
    assert TO_HALF in affordable_plans(5, 1.5)


def curves(*rows):
    """Runs of 100 steps from their losses at 50 and 100."""
    return [
        record("wsd", float(place), 0, last, curve=((50, first), (100, last)))
        for place, (first, last) in enumerate(rows, start=1)
    ]


def test_halving_stops_those_that_are_behind():
    runs = curves((1.0, 0.9), (2.0, 0.5))
    assert halving_loss(runs, TO_HALF) == 0.9  # the one that ends lower was behind at half
    assert random_loss(runs, 2) == 0.5
    assert loss_at(runs[0], 60) == 1.0


def test_a_run_that_diverged_is_dropped():
    lost = record("wsd", 3.0, 0, math.inf, curve=((25, 0.1),))
    assert loss_at(lost, 25) == 0.1
    assert loss_at(lost, 50) == math.inf
    assert halving_loss([lost, *curves((1.0, 0.9))], TO_HALF) == 0.9


def test_runs_to_draw_level_of_a_random_search():
    runs = curves((1, 0.8), (1, 0.4), (1, 0.6))
    # The lower medians of one, two and three draws are 0.6, 0.4 and 0.4.
    assert runs_to_draw_level(runs, 0.7) == 1.0
    assert runs_to_draw_level(runs, 0.5) == pytest.approx(1.5)
    assert runs_to_draw_level(runs, 0.3) is None


def test_the_cache_survives_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "cache.jsonl"
    first, second = run("vae", "cosine", 1e-3, 0, 0.5), run("vae", "cosine", 1e-2, 0, math.inf)
    append(path, [first])
    with path.open("a") as file:
        file.write('{"task": "va')
    assert read_cache(path) == cache_of(first)
    append(path, [second])
    assert read_cache(path) == cache_of(first, second)
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is no run"):
        read_cache(path)


def test_runs_are_planned_on_each_tasks_grid():
    runs = plan(["rnn"], ["autolrs", "schedule_free", "cosine", *OTHER_RIVALS], [0], 100)
    lrs = [one.lr for one in runs if one.method == "schedule_free"]
    assert tuple(lrs) == SUITE["rnn"].schedule_free_lrs != SUITE["muon"].lrs
    assert [one.lr for one in runs if one.method == "adamw_fixed"] == [1e-3]
    assert estimated_minutes(runs, {}, 2) > 0


def test_the_estimate_takes_the_cache_at_its_word():
    runs = plan(["vae"], ["cosine"], [0], 100)
    made = cache_of(run("vae", "wsd", 1e-3, 0, 0.5))  # 2 s for 100 steps
    assert estimated_minutes(runs, made, 1) == pytest.approx(5 * 2.0 / 60)


def test_the_best_lr_of_the_tuning_seed_is_run_on_others():
    runs = plan(["digits"], ["cosine"], [2, 3], 100)
    chosen = at_best_lr(runs, synthetic(), 0)
    assert {(one.lr, one.seed) for one in chosen} == {
        (SUITE["digits"].lrs[2], 2),
        (SUITE["digits"].lrs[2], 3),
    }
    with pytest.raises(ValueError, match="no run with seed 7"):
        at_best_lr(runs, synthetic(), 7)


def test_a_grid_is_walked_until_its_best_lr_is_bracketed():
    lrs = SUITE["vae"].lrs
    best_is_last_but_one: dict[float | None, float] = dict(
        zip(lrs, (5.0, 4.0, 3.0, 2.0, 2.5), strict=True)
    )
    runs = plan(["vae"], ["cosine"], [0], 100)
    cache = cache_of()
    walked = []
    while missing := next_runs(runs, cache):
        walked.append([one.lr for one in missing])
        for one in missing:
            made = run("vae", "cosine", one.lr, 0, best_is_last_but_one[one.lr])
            cache[made.key] = made
    assert walked == [list(lrs[1:4]), [lrs[4]]]
    again = plan(["vae"], ["cosine"], [1], 100)
    assert [one.lr for one in at_best_lr(again, cache, 0)] == [lrs[3]]


def test_both_oracles_look_near_the_lr_oracles_best():
    octaves = METHODS[LR_ORACLE].lrs(SUITE["digits"])
    runs = near_oracle(plan(["digits"], ["lr_oracle_beta_0.9"], [0], 100), synthetic())
    assert [one.lr for one in runs] == list(octaves[2:5])
    with pytest.raises(ValueError, match="make those first"):
        near_oracle(plan(["mlp"], ["lr_oracle_beta_0.9"], [0], 100), synthetic())


def test_the_page_has_every_table():
    text = page(synthetic(), 100)
    lines = text.splitlines()
    digits = next(line for line in lines if line.startswith("| tabular and small data | digits"))
    assert "| cosine | 0.1 |" in digits
    assert "| -9.9% ± 0.1 | 2 | ahead | 10% |" in digits
    assert "Worst: vae, +9.9% ± 0.1." in text
    assert "Tasks: ahead 1, tie 0, behind 1." in text
    assert "| wsd | 1.15 | 2 |" in text
    with pytest.raises(ValueError, match="no task has runs of autolrs of 7 steps"):
        page(synthetic(), 7)


def test_a_family_is_judged_on_the_page():
    runs = [
        run(task, "autolrs_no_research", None, seed, 0.3)
        for task in ("digits", "vae")
        for seed in (0, 1)
    ]
    text = page({**synthetic(), **cache_of(*runs)}, 100)
    assert "### research" in text
    assert "| generative | autolrs_no_research |" in text
