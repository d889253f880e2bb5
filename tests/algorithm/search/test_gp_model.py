from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ray_autolrs.algorithm.search.gp_model import GPSearch


def search(seed=0, **options):
    settings = {"kappa": 1000.0, "grid_points": 1001} | options
    return GPSearch(1e-3, 1.0, seed=(seed, 1), **settings)


def place(lr):
    """log LR scaled to [0, 1] over the interval of :func:`search`."""
    return (math.log10(lr) + 3) / 3


def explore(loss, probes=10, **options):
    """The places tried, in order, where ``loss`` tells a place's loss or None."""
    asked = search(**options)
    places = []
    for _ in range(probes):
        lr = asked.ask()[0]
        places.append(place(lr))
        value = loss(places[-1])
        asked.tell(lr, value, 0.01)
    return places


def bowl(x):
    return 2 + 4 * (x - 0.6) ** 2


def cliff(x):
    return 2 - x if x < 0.7 else None


@pytest.mark.parametrize("loss", [bowl, cliff], ids=["bowl", "cliff"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paper_kappa_covers_the_interval(loss, seed):
    places = sorted(explore(loss, seed=seed))
    assert max(np.diff([0.0, *places, 1.0])) < 0.2


@pytest.mark.parametrize("edge", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_diverged_lrs_do_not_draw_the_search_to_the_ends(edge, seed):
    """Diverged LRs count as the worst forecast: with one other, all outcomes are equal."""
    places = explore(lambda x: 2 - x if x <= edge else None, seed=seed)
    assert max(np.diff([0.0, *sorted(places), 1.0])) < 0.2


def test_equal_forecasts_spread_the_probes():
    places = explore(lambda _: 2.0)
    assert max(np.diff([0.0, *sorted(places), 1.0])) < 0.2


def test_small_kappa_stays_near_the_minimum():
    places = explore(bowl, kappa=0.1)
    assert np.mean([abs(x - 0.6) < 0.15 for x in places[4:]]) > 0.8


def test_no_lr_is_asked_twice():
    assert len(set(explore(lambda _: 2.0, probes=15))) == 15
    assert len(set(explore(bowl, probes=11, grid_points=11))) == 11


def test_first_lr_is_drawn_from_the_seed():
    firsts = [search(seed=seed).ask()[0] for seed in range(50)]
    assert len(set(firsts)) > 45
    assert 0.4 < np.mean([place(lr) for lr in firsts]) < 0.6
    assert search(seed=3).ask() == [firsts[3]]


def test_asked_lrs_lie_in_the_interval_to_the_last_bit():
    asked = GPSearch(0.1, 0.3, seed=(0,), kappa=1000.0, grid_points=11)
    lrs = asked.ask(11)
    assert min(lrs) == 0.1
    assert max(lrs) == 0.3


def test_batch_spreads_out():
    asked = search()
    lrs = asked.ask(10)
    assert max(np.diff([0.0, *sorted(place(lr) for lr in lrs), 1.0])) < 0.2


def test_running_lrs_count_as_asked():
    one, other = search(), search()
    lrs = one.ask(3)
    other.running(lrs[:2])
    assert other.ask() == lrs[2:]


def test_best_observed_is_the_lowest_forecast():
    asked = search()
    for lr, loss in [(0.01, 2.0), (0.1, 1.5), (0.5, 3.0), (0.9, None)]:
        asked.tell(lr, loss)
    assert asked.best() == 0.1


def test_posterior_mean_lies_between_noisy_observations():
    asked = search(choose_by="posterior_mean", kappa=0.0)
    for x in np.linspace(0.05, 0.95, 12):
        asked.tell(10 ** (3 * x - 3), bowl(x))
    assert place(asked.best()) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("choose_by", ["best_observed", "posterior_mean"])
def test_diverged_lr_is_never_chosen(choose_by):
    asked = GPSearch(0.1, 0.3, seed=(0,), kappa=1000.0, grid_points=2, choose_by=choose_by)
    asked.tell(0.3, None)
    with pytest.raises(ValueError, match="no LR was told that did not diverge"):
        asked.best()
    asked.tell(0.1, 5.0)
    assert asked.best() == 0.1


def test_exhausted_grid_is_refused():
    with pytest.raises(ValueError, match="grid_points=3 LRs are all asked"):
        search(grid_points=3).ask(4)


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_loss_that_is_not_finite_counts_as_diverged(loss):
    places = explore(lambda x: loss if x > 0.5 else 2.0)
    assert places == explore(lambda x: None if x > 0.5 else 2.0)
    asked = search()
    asked.tell(0.1, loss)
    asked.tell(0.2, 5.0)
    assert asked.best() == 0.2


@pytest.mark.parametrize("value", [1e11, -1e11, 1e30, 1.7e308, -1.7e308])
def test_absurd_forecasts_do_not_break_the_search(value):
    places = explore(lambda x: value if x > 0.8 else 2 - x)
    assert len(set(places)) == 10
    assert all(math.isfinite(x) for x in places)


def test_search_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    explore(bowl, probes=4)
    assert torch.equal(torch.get_rng_state(), before)


ASK = """
from ray_autolrs.algorithm.search.gp_model import GPSearch
search = GPSearch(1e-3, 1.0, seed=(0, 1), kappa=1000.0, grid_points=1001)
for loss in (2.1, None, 1.9, 2.4, 2.0):
    lr = search.ask()[0]
    print(lr.hex())
    search.tell(lr, loss)
"""


def test_same_observations_give_the_same_lrs_in_another_process():
    asked = search()
    here = []
    for loss in (2.1, None, 1.9, 2.4, 2.0):
        lr = asked.ask()[0]
        here.append(lr.hex())
        asked.tell(lr, loss)
    there = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here
