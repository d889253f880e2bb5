from __future__ import annotations

import dataclasses
import json
import math

import pytest

from ray_autolrs import AutoLRSConfig


def config(**values):
    return AutoLRSConfig.paper(**({"total_steps": 1000, "lr_min": 1e-3, "lr_max": 1.0} | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_min": 0.0}, r"lr_min=0.0 must be positive and finite"),
        ({"lr_min": -1.0}, r"lr_min=-1.0 must be positive"),
        ({"lr_max": math.inf}, r"lr_max=inf must be positive and finite"),
        ({"lr_min": math.nan}, r"lr_min=nan must be positive"),
        ({"lr_min": 1.0}, r"lr_min=1.0 must be smaller than lr_max=1.0"),
        ({"total_steps": 999}, r"total_steps=999 must hold warmup_steps=0 and one stage of"),
        ({"total_steps": 1050, "warmup_steps": 51}, r"total_steps=1050 must hold warmup_steps=51"),
        ({"total_steps": 1e3}, r"total_steps=1000.0 must be an integer of at least 1"),
        ({"total_steps": True}, r"total_steps=True must be an integer"),
        ({"first_stage_steps": 0}, r"first_stage_steps=0 must be an integer of at least 1"),
        (
            {"first_stage_steps": 70},
            r"first_stage_steps=70 times probe_fraction=0.1 gives probes of 7",
        ),
        ({"max_stage_steps": 999}, r"max_stage_steps=999 must be at least first_stage_steps=1000"),
        ({"stage_growth": 1}, r"max_stage_steps=8000 must equal first_stage_steps=1000 when stage"),
        ({"stage_growth": 0}, r"stage_growth=0 must be an integer of at least 1"),
        ({"probe_fraction": 0.0}, r"probe_fraction=0.0 must lie in \(0, 1\]"),
        ({"probe_fraction": 1.1}, r"probe_fraction=1.1 must lie in \(0, 1\]"),
        ({"probes_per_stage": 0}, r"probes_per_stage=0 must be an integer of at least 1"),
        ({"warmup_steps": -1}, r"warmup_steps=-1 must be an integer of at least 0"),
        ({"warmup_lr": 0.0}, r"warmup_lr=0.0 must be positive and finite"),
        ({"kappa": -1.0}, r"kappa=-1.0 must be finite and not negative"),
        ({"kappa": math.inf}, r"kappa=inf must be finite"),
        ({"lr_grid_points": 9}, r"lr_grid_points=9 must be an integer of at least 10"),
        (
            {"choose_by": "mean"},
            r"choose_by='mean' must be one of \('best_observed', 'posterior_mean'\)",
        ),
        ({"denoise_rounds": -1}, r"denoise_rounds=-1 must be an integer of at least 0"),
        ({"denoise_fraction": 0.5}, r"denoise_fraction=0.5 must lie in \[0, 0.5\)"),
        ({"denoise_window": 1.5}, r"denoise_window=1.5 must lie in \[0, 1\]"),
        ({"validation_evals": 7}, r"validation_evals=7 must be an integer of at least 8"),
        ({"validation_samples": 0}, r"validation_samples=0 must be an integer of at least 1"),
        ({"eval_every_steps": 0}, r"eval_every_steps=0 must be an integer of at least 1"),
        (
            {"divergence_check_steps": 0},
            r"divergence_check_steps=0 must be an integer of at least 1",
        ),
        ({"probe_lanes": "all"}, r"probe_lanes='all' must be one of"),
        (
            {"probe_lanes": "workers", "probe_actors": 2},
            r"probe_actors=2 needs probe_lanes='actors' or 'auto'",
        ),
        ({"probe_lanes": "actors", "probe_actors": 0}, r"probe_actors=0 must be an integer of at"),
        (
            {"probe_lanes": "auto", "resources_per_probe_actor": {"CPU": 0}},
            r"resources_per_probe_actor={'CPU': 0} must name",
        ),
        ({"lr_min": None}, r"lr_min=None must be None, as lr_max=1.0"),
        ({"search": "grid"}, r"search='grid' must be one of \('bracket', "),
        ({"forecaster": "oracle"}, r"forecaster='oracle' must be None or one of"),
        ({"averaging": "mean"}, r"averaging='mean' must be one of"),
        ({"shape": "step"}, r"shape='step' must be one of"),
        ({"warmup_power": 0.0}, r"warmup_power=0.0 must be positive"),
        ({"averaging_momentum": 1.0}, r"averaging_momentum=1.0 must lie in \(0, 1\)"),
        ({"averaging_tail": 0.0}, r"averaging_tail=0.0 must lie in \(0, 1\]"),
        ({"probe_steps": 7}, r"probe_steps=7 must be an integer of at least 8"),
        ({"search": "halving", "first_lr": 0.1}, r"first_lr=0.1 has an interval of its own"),
        ({"first_lr": 0.1}, r"first_lr=0.1 is for search='bracket' and"),
        ({"search": "halving", "warmup_lr": 0.1}, r"warmup_lr=0.1 must be None with search="),
        ({"total_steps": None, "shape": "linear"}, r"shape='linear' must be 'constant' or 'wsd'"),
        (
            {"search": "halving", "shape": "wsd", "warmup_steps": 700},
            r"warmup_steps=700 must end before the decay of shape='wsd' begins",
        ),
        ({"seed": -1}, r"seed=-1 must be an integer of at least 0"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        config(**values)


def test_paper_is_the_paper():
    paper = AutoLRSConfig.paper(total_steps=50_000, lr_min=1e-3, lr_max=1.0)
    assert {
        name: getattr(paper, name)
        for name in (
            "first_stage_steps",
            "max_stage_steps",
            "stage_growth",
            "probe_fraction",
            "probes_per_stage",
            "kappa",
            "choose_by",
            "denoise_rounds",
            "denoise_fraction",
            "validation_denoise_rounds",
            "validation_evals",
            "probe_lanes",
            "search",
            "averaging",
            "shape",
            "forecaster",
            "warmup_steps",
            "validation_samples",
        )
    } == {
        "search": "gaussian_process",
        "averaging": "none",
        "shape": "constant",
        "forecaster": "exponential",
        "warmup_steps": 0,
        "validation_samples": 1024,
        "first_stage_steps": 1000,
        "max_stage_steps": 8000,
        "stage_growth": 2,
        "probe_fraction": 0.1,
        "probes_per_stage": 10,
        "kappa": 1000.0,
        "choose_by": "best_observed",
        "denoise_rounds": 10,
        "denoise_fraction": 0.03,
        "validation_denoise_rounds": 1,
        "validation_evals": 16,
        "probe_lanes": "sequential",
    }


def test_paper_takes_overrides():
    paper = AutoLRSConfig.paper(2000, 1e-3, 1.0, probes_per_stage=5, warmup_steps=100)
    assert (paper.probes_per_stage, paper.warmup_steps, paper.kappa) == (5, 100, 1000.0)
    with pytest.raises(TypeError, match="stage_steps"):
        AutoLRSConfig.paper(2000, 1e-3, 1.0, stage_steps=5)


def test_config_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 3
    with pytest.raises(TypeError):
        AutoLRSConfig(1000, 1e-3, 1.0)  # type: ignore[call-arg]


def test_json_round_trip():
    wanted = config(seed=3, warmup_lr=0.3, lr_min=0.1 + 0.2, eval_every_steps=50)
    assert AutoLRSConfig.from_dict(json.loads(json.dumps(wanted.to_dict()))) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_steps": 1000, "lr_min": 0.1}, "config lacks the field 'lr_max'"),
        ({"total_steps": 1000, "lr_min": 0.1, "lr_max": 1, "tau": 3}, "config has no field 'tau'"),
    ],
)
def test_malformed_dicts_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AutoLRSConfig.from_dict(values)


def test_warmup_lr_is_the_geometric_mean_unless_given():
    assert config(lr_min=0.01, lr_max=1.0).resolved_warmup_lr == pytest.approx(0.1)
    assert config(warmup_lr=0.3).resolved_warmup_lr == 0.3


@pytest.mark.parametrize(
    ("total_steps", "expected"),
    [
        # warm-up, first stage, longest stages, probes
        (300, (60, 20, 75, 12)),
        (1_000, (200, 60, 250, 21)),
        (2_300, (460, 138, 575, 50)),
        (5_000, (1_000, 300, 1250, 100)),
        (100_000, (20_000, 6_000, 25_000, 100)),
        (None, (500, 1_000, 1_000, 100)),
    ],
)
def test_the_default_is_planned_from_the_run_s_length(total_steps, expected):
    default = AutoLRSConfig(total_steps=total_steps, lr_min=1e-3, lr_max=1.0)
    assert (
        default.resolved_warmup_steps,
        default.resolved_first_stage_steps,
        default.resolved_max_stage_steps,
        default.resolved_probe_steps,
    ) == expected


@pytest.mark.parametrize(
    ("settings", "steps", "power"),
    [
        ({}, 200, 0.5),
        ({"averaging": "ema"}, 200, 0.5),
        ({"averaging": "none"}, 50, 1.0),
        ({"averaging": "none", "warmup_power": 2.0, "warmup_steps": 7}, 7, 2.0),
        ({"search": "midpoints", "first_stage_steps": 200}, 50, 0.5),
    ],
)
def test_averages_warm_up_for_longer(settings, steps, power):
    found = AutoLRSConfig(total_steps=1_000, lr_min=1e-3, lr_max=1.0, **settings)
    assert (found.resolved_warmup_steps, found.resolved_warmup_power) == (steps, power)


def test_gradients_are_nearer_to_the_average_with_a_larger_batch():
    default = AutoLRSConfig(total_steps=None, lr_min=1e-3, lr_max=1.0)
    found = [default.resolved_averaging_momentum(size) for size in (1, 32, 64, 256, 512, 10**6)]
    assert found == pytest.approx([0.8, 0.8, 1 - 0.2 / 2**0.5, 1 - 0.2 / 8**0.5, 0.95, 0.95])
    chosen = AutoLRSConfig(total_steps=None, lr_min=1e-3, lr_max=1.0, averaging_momentum=0.5)
    assert chosen.resolved_averaging_momentum(256) == 0.5


@pytest.mark.parametrize(
    ("total_steps", "probe_steps"), [(1_000, 12), (2_300, 20), (5_000, 28), (10**5, 40), (None, 40)]
)
def test_halving_s_short_probes_are_shorter(total_steps, probe_steps):
    config = AutoLRSConfig(total_steps=total_steps, lr_min=1e-3, lr_max=1.0, search="halving")
    assert config.resolved_probe_steps == probe_steps


def test_a_run_s_settings_name_what_the_batch_size_leads_to():
    default = AutoLRSConfig(total_steps=1_000, lr_min=1e-3, lr_max=1.0)
    assert default.for_batch_size(128).averaging_momentum == pytest.approx(0.9)
    assert default.for_batch_size(128).for_batch_size(32) == default.for_batch_size(128)
    ema = AutoLRSConfig(total_steps=1_000, lr_min=1e-3, lr_max=1.0, averaging="ema")
    assert ema.for_batch_size(128) == ema
