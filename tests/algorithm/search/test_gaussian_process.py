"""The paper's strategy: what it asks, how it judges, and what it chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ray_autolrs.algorithm.forecast.exponential import Exponential
from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search import gp_model
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess, lr_grid
from ray_autolrs.algorithm.search.gp_posterior import GPParameters
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    ProbeLosses,
    RunFacts,
    StageContext,
)
from tests.algorithm.made_up_runs import result

FACTS = RunFacts(total_steps=31_000, lr=(1e-3, 1.0))
GROWING = StageContext(Stage(1, 0, 1000), FACTS)
LONGEST = StageContext(Stage(5, 15_000, 8000, grows=False), FACTS)
PAPER = GaussianProcess()


def place(lr):
    """log LR scaled to [0, 1] over the interval."""
    return (math.log10(lr) + 3) / 3


def asked(context=GROWING, told=(), running=(), strategy=PAPER) -> Candidate:
    candidate = strategy.suggest(context, told, running)
    assert candidate is not None
    return candidate


def explore(loss, probes=10, seed=0, **settings):
    """A stage's observations, where ``loss`` tells the loss of an LR's place, or None."""
    strategy = GaussianProcess(**{"probes": probes} | settings)
    context = replace(GROWING, facts=replace(FACTS, seed=seed))
    told: list[Observation] = []
    for index in range(probes):
        lr = asked(context, told, strategy=strategy).peak_lr
        told.append(result(index, lr, loss(place(lr))))
    return told


def tried(told):
    return [place(one.peak_lr) for one in told]


def widest_gap(places):
    return max(np.diff([0.0, *sorted(places), 1.0]))


def bowl(x):
    return 2 + 4 * (x - 0.6) ** 2


# What is asked ----------------------------------------------------------------------------


def test_lrs_of_a_stage_are_those_of_the_first_version():
    """Recorded from the code of the first version, with BoTorch 0.16 and torch 2.14."""
    losses = iter((2.1, None, 1.9, 2.4, 2.0))
    places = tried(explore(lambda _: next(losses), probes=5))
    assert places == pytest.approx([0.522, 0.0, 1.0, 0.261, 0.772], abs=1e-9)


@pytest.mark.parametrize(
    "loss", [bowl, lambda x: 2 - x if x < 0.7 else None], ids=["bowl", "cliff"]
)
def test_paper_kappa_covers_the_interval(loss):
    assert widest_gap(tried(explore(loss))) < 0.2


@pytest.mark.parametrize("edge", [0.0, 0.05])
def test_diverged_lrs_do_not_draw_the_search_to_the_ends(edge):
    """Diverged LRs count as the worst forecast: with one other, all outcomes are equal."""
    assert widest_gap(tried(explore(lambda x: 2 - x if x <= edge else None))) < 0.2


def test_equal_forecasts_spread_the_probes():
    assert widest_gap(tried(explore(lambda _: 2.0))) < 0.2


def test_small_kappa_stays_near_the_minimum():
    assert (
        np.mean([abs(x - 0.6) < 0.15 for x in tried(explore(bowl, probes=8, kappa=0.1))[4:]]) > 0.8
    )


def test_no_lr_is_asked_twice_and_a_whole_grid_can_be_asked():
    places = tried(explore(lambda _: 2.0, probes=11, grid_points=11))
    assert sorted(places) == pytest.approx(np.linspace(0, 1, 11), abs=1e-12)


def test_first_lr_is_drawn_from_the_seed_and_the_stage():
    firsts = [
        asked(replace(GROWING, facts=replace(FACTS, seed=seed))).peak_lr for seed in range(50)
    ]
    assert len(set(firsts)) > 45
    assert 0.4 < np.mean([place(lr) for lr in firsts]) < 0.6
    assert asked(replace(GROWING, facts=replace(FACTS, seed=3))).peak_lr == firsts[3]
    assert asked(LONGEST).peak_lr != firsts[0]


def test_the_grid_ends_at_the_interval_to_the_last_bit():
    lrs, places = lr_grid(0.1, 0.3, 11)
    assert (lrs[0], lrs[-1]) == (0.1, 0.3)
    assert np.diff(np.log(lrs)) == pytest.approx([math.log(3) / 10] * 10)
    assert places == pytest.approx(np.linspace(0, 1, 11))


def test_lrs_that_run_spread_out_and_are_not_suggested_again():
    """The kriging believer, before anything was told."""
    running: list[float] = []
    while len(running) < 10:
        running.append(asked(running=running).peak_lr)
    assert widest_gap([place(lr) for lr in running]) < 0.2
    told = [result(0, running[0], 2.0), result(1, running[1], 1.5)]
    later = asked(told=told, running=running[2:4])
    assert later.peak_lr not in running
    assert asked(told=told, running=running[2:4]) == later  # it is pure


def test_probes_of_growing_stages_are_judged_by_training_loss_and_others_by_validation():
    assert (asked().steps, asked().evals) == (100, 0)
    assert (asked(LONGEST).steps, asked(LONGEST).evals) == (800, 16)
    assert asked().shape == FACTS.shape
    short = replace(LONGEST, stage=replace(LONGEST.stage, steps=100))
    assert (asked(short).steps, asked(short).evals) == (10, 10)


def test_a_stage_is_searched_with_as_many_probes_as_it_says():
    told = [result(index, 0.1 + index) for index in range(10)]
    assert PAPER.suggest(GROWING, told, ()) is None
    assert PAPER.suggest(GROWING, told[:4], [0.1] * 6) is None
    assert PAPER.most_parallel_probes == 10
    stages = [Stage(1, 0, 1000), Stage(2, 1000, 2000)]
    assert PAPER.planned_steps(FACTS, stages) == 10 * (100 + 200)
    assert GaussianProcess(probes=5, probe_fraction=0.2).planned_steps(FACTS, stages) == 5 * 600


def test_a_stage_whose_probes_are_too_short_for_a_forecast_is_refused():
    PAPER.check_stage(Stage(1, 0, 80))
    message = r"GaussianProcess\.probe_fraction=0\.1 gives probes of 7 steps in a stage of 70, and"
    with pytest.raises(ValueError, match=message):
        PAPER.check_stage(Stage(1, 0, 70))


# How a probe is judged --------------------------------------------------------------------


def falling(points):
    return tuple(2.0 + math.exp(-2 * t / points) for t in range(points))


def judged(context, losses, initial_loss, strategy=PAPER):
    candidate = asked(context)
    seen = ProbeLosses((9.0,), losses) if candidate.evals else ProbeLosses(losses)
    return strategy.judge(replace(context, initial_loss=initial_loss), candidate, seen)


def test_training_losses_are_forecast_to_the_stage_end():
    expected = Exponential(10, 0.03, 0.5).forecast(falling(100), 1000)
    assert judged(GROWING, falling(100), math.nan) == expected


def test_validation_losses_are_forecast_in_units_of_their_interval():
    expected = Exponential(1, None, 0.5).forecast(falling(16), 8000 // 50)
    assert judged(LONGEST, falling(16), 9.0) == expected


@pytest.mark.parametrize("initial_loss", [3.0, 2.5])
def test_validation_series_that_reaches_the_initial_loss_gives_its_last_loss(initial_loss):
    forecast = judged(LONGEST, falling(16), initial_loss)
    assert forecast == Forecast(falling(16)[-1], float(np.std(falling(16))), trusted=False)


def test_training_series_that_reaches_the_initial_loss_is_forecast():
    assert judged(GROWING, falling(100), 1.0).loss != falling(100)[-1]


def test_ones_own_forecasters_are_asked():
    class First:
        def forecast(self, losses, horizon):
            return Forecast(losses[0], float(horizon))

    own = GaussianProcess(forecaster=First(), validation_forecaster=First())
    assert judged(GROWING, falling(100), math.nan, own) == Forecast(3.0, 1000.0)
    assert judged(LONGEST, falling(16), 9.0, own) == Forecast(3.0, 160.0)


# What is chosen ---------------------------------------------------------------------------

TOLD = [result(0, 0.01, 2.0), result(1, 0.1, 1.5), result(2, 0.5, 3.0), result(3, 0.9, None)]


def test_best_observed_is_the_lowest_forecast_and_names_its_probe():
    assert PAPER.choose(GROWING, TOLD, ()) == Choice(0.1, 1)


def test_where_all_diverged_nothing_is_chosen():
    for strategy in (PAPER, GaussianProcess(choose_by="posterior_mean")):
        assert strategy.choose(GROWING, TOLD[3:], ()) is None


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_forecast_that_is_not_finite_counts_as_diverged(loss, monkeypatch):
    """As one's own forecaster may give it."""
    told_losses = []

    def noting(told, losses, running, at):
        told_losses.extend(losses)
        return np.zeros(len(at)), np.ones(len(at)), GPParameters(1.0, 0.1, 0.0)

    monkeypatch.setattr(gp_model, "posterior", noting)
    told = [result(0, 0.2, 5.0), result(1, 0.1, loss)]
    assert PAPER.choose(GROWING, told, ()) == Choice(0.2, 0)
    assert PAPER.choose(GROWING, told[1:], ()) is None
    asked(told=told)
    assert told_losses == [5.0, None]


MEAN = GaussianProcess(choose_by="posterior_mean", grid_points=11)


@pytest.fixture
def posterior(monkeypatch):
    """The posterior's mean falls with the LR; its arguments are noted."""
    arguments = []

    def falling_mean(*given):
        arguments.append(given)
        return -given[3], np.ones(len(given[3])), GPParameters(1.0, 0.1, 0.0)

    monkeypatch.setattr(gp_model, "posterior", falling_mean)
    return arguments


def test_posterior_mean_is_minimised_over_the_grid(posterior):
    lrs, places = lr_grid(1e-3, 1.0, 11)
    told = [result(0, lrs[2], 2.0), result(1, lrs[5], 1.0)]
    assert MEAN.choose(GROWING, told, ()) == Choice(1.0)
    # What was applied and diverged counts as told; neither it nor its like is chosen.
    assert MEAN.choose(GROWING, told, [lrs[10], lrs[9]]) == Choice(lrs[8])
    at, losses, running, grid = posterior[-1]
    assert at == pytest.approx([0.2, 0.5, 1.0, 0.9])
    assert (losses, running) == ([2.0, 1.0, None, None], [])
    assert np.array_equal(grid, places)


@pytest.mark.parametrize("towards", [0.0, 2.0])
def test_a_probed_lr_is_known_by_its_place_whatever_its_last_bit(posterior, towards):
    lrs, _ = lr_grid(1e-3, 1.0, 11)
    off = [math.nextafter(lr, towards) for lr in lrs]
    told = [result(0, off[9], 2.0), result(1, off[10], None)]
    assert MEAN.choose(GROWING, told, ()) == Choice(off[9], 0)
    strategy = replace(MEAN, kappa=0.0)
    assert asked(told=told, running=[off[8]], strategy=strategy).peak_lr == lrs[7]


def test_posterior_mean_lies_between_noisy_observations():
    told = [
        result(index, 10 ** (3 * x - 3), bowl(x))
        for index, x in enumerate((0.05, 0.35, 0.65, 0.95))
    ]
    choice = GaussianProcess(choose_by="posterior_mean").choose(GROWING, told, ())
    assert choice is not None
    assert place(choice.peak_lr) == pytest.approx(0.6, abs=0.05)
    assert choice.probe is None
