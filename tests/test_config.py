from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from ray_autolrs import (
    EMA,
    WSD,
    AutoLRSConfig,
    Bracket,
    Constant,
    Cosine,
    Exponential,
    GaussianProcess,
    Lanes,
    Linear,
    Looks,
    Research,
    ScheduleFreeAverage,
    Stages,
    Validation,
    Warmup,
)
from ray_autolrs.algorithm.schedules.shapes import Flat, Piecewise, WarmupCosine, WarmupStableDecay
from ray_autolrs.algorithm.search.strategy import SearchStrategy


def default(**values: Any) -> AutoLRSConfig:
    given: dict[str, Any] = {"total_steps": 1000, "lr": (1e-3, 1.0)}
    return AutoLRSConfig(**(given | values))


def wrong(value: Any) -> Any:
    """A value of another type than the field's, which mypy must not see."""
    return value


def paper(**values: Any) -> AutoLRSConfig:
    given: dict[str, Any] = {"total_steps": 1000, "lr": (1e-3, 1.0)}
    return AutoLRSConfig.paper(**(given | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": (0.0, 1.0)}, r"AutoLRSConfig.lr=\(0.0, 1.0\) must be \(low, high\) with 0 < low"),
        ({"lr": (1e-3, math.inf)}, r"AutoLRSConfig.lr=.* must be \(low, high\)"),
        ({"lr": (1.0, 1.0)}, r"AutoLRSConfig.lr=\(1.0, 1.0\) must be \(low, high\)"),
        ({"lr": (1e-3, 0.1, 1.0)}, r"AutoLRSConfig.lr=.* must be \(low, high\)"),
        ({"lr": [1e-3, 1.0]}, r"AutoLRSConfig.lr=\[0.001, 1.0\] must be an interval"),
        (
            {"lr": -0.1},
            r"AutoLRSConfig.lr=-0.1 must be an interval \(low, high\), a positive guess",
        ),
        ({"lr": "0.1"}, r"AutoLRSConfig.lr='0.1' must be an interval"),
        ({"total_steps": 0}, r"AutoLRSConfig.total_steps=0 must be None or an integer of at least"),
        ({"total_steps": 1e3}, r"AutoLRSConfig.total_steps=1000.0 must be None or an integer"),
        ({"total_steps": True}, r"AutoLRSConfig.total_steps=True must be None or an integer"),
        ({"seed": -1}, r"AutoLRSConfig.seed=-1 must be an integer of at least 0"),
        (
            {"divergence_check_steps": 0},
            r"AutoLRSConfig.divergence_check_steps=0 must be an integer of at least 1",
        ),
        ({"search": "bracket"}, r"AutoLRSConfig.search='bracket' must be an instance of SearchStr"),
        ({"averaging": "ema"}, r"AutoLRSConfig.averaging='ema' must be None or an instance of"),
        ({"shape": "wsd"}, r"AutoLRSConfig.shape='wsd' must be a shape such as Constant\(\)"),
        ({"stages": 3}, r"AutoLRSConfig.stages=3 must be an instance of Stages"),
        ({"warmup": 20}, r"AutoLRSConfig.warmup=20 must be an instance of Warmup"),
        ({"validation": None}, r"AutoLRSConfig.validation=None must be an instance of Validation"),
        ({"lanes": "auto"}, r"AutoLRSConfig.lanes='auto' must be an instance of Lanes"),
    ],
)
def test_fields_of_its_own_are_checked(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        default(**values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: default(stages=Stages(first_steps=1001)),
            r"AutoLRSConfig.total_steps=1000 must hold the warm-up's 0 steps and one stage of 1001",
        ),
        (
            lambda: paper(stages=Stages(first_steps=990), warmup=Warmup(steps=11, lr=0.1)),
            r"AutoLRSConfig.total_steps=1000 must hold the warm-up's 11 steps and one stage of 990",
        ),
        (
            lambda: default(warmup=Warmup(steps=1000)),
            r"AutoLRSConfig.warmup=.* has 1000 steps: it must end before .* the run of 1000 steps",
        ),
        (
            lambda: default(warmup=Warmup(steps=700), shape=WSD()),
            r"AutoLRSConfig.warmup=.* has 700 steps: it must end before the decay of WSD begins",
        ),
        (
            lambda: default(total_steps=None, shape=Linear()),
            r"AutoLRSConfig.shape=Linear\(\) needs an end, and total_steps is None",
        ),
        (
            lambda: default(total_steps=None, shape=Cosine()),
            r"AutoLRSConfig.shape=Cosine\(\) needs an end",
        ),
        (
            lambda: paper(lr=0.1),
            r"AutoLRSConfig.lr=0.1 is a guess, and GaussianProcess searches an",
        ),
        (
            lambda: paper(stages=Stages(first_steps=70, longest_steps=70)),
            r"GaussianProcess.probe_fraction=0.1 gives probes of 7 steps in a stage of 70",
        ),
    ],
)
def test_parts_must_agree(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Stages(first_steps=0), r"Stages.first_steps=0 must be None or an integer of at"),
        (
            lambda: Stages(first_steps=1000, longest_steps=999),
            r"Stages.longest_steps=999 must be at least first_steps=1000",
        ),
        (
            lambda: Stages(first_steps=10, longest_steps=80, growth=1),
            r"Stages.longest_steps=80 must equal first_steps=10 when growth=1",
        ),
        (lambda: Stages(growth=0), r"Stages.growth=0 must be an integer of at least 1"),
        (lambda: Warmup(steps=-1), r"Warmup.steps=-1 must be None or an integer of at least 0"),
        (lambda: Warmup(power=0.0), r"Warmup.power=0.0 must be None or a positive, finite number"),
        (
            lambda: Warmup(lr=wrong("0.1")),
            r"Warmup.lr='0.1' must be None or a positive, finite number",
        ),
        (lambda: WSD(decay_fraction=1.0), r"WSD.decay_fraction=1.0 must be a number in \(0, 1\)"),
        (lambda: Bracket(probe_steps=7), r"Bracket.probe_steps=7 must be None or an integer of at"),
        (
            lambda: Bracket(research=wrong(True)),
            r"Bracket.research=True must be None or a Research",
        ),
        (lambda: Research(factor=1.0), r"Research.factor=1.0 must be a number of at least 1.5"),
        (
            lambda: Research(least_directness=-1),
            r"Research.least_directness=-1 must be finite and not negative",
        ),
        (lambda: Research(tolerance=1), r"Research.tolerance=1 must lie in \[0, 1\)"),
        (lambda: Research(hysteresis=-1), r"Research.hysteresis=-1 must lie in \[0, 1\)"),
        (lambda: Looks(factor=1.0), r"Looks.factor=1.0 must be a number of at least 1.5"),
        (lambda: Looks(lower_margin=1.0), r"Looks.lower_margin=1.0 must lie in \[0, 1\)"),
        (lambda: Looks(budget=0.0), r"Looks.budget=0.0 must be a number in \(0, 1\)"),
        (lambda: GaussianProcess(probes=0), r"GaussianProcess.probes=0 must be an integer of at"),
        (
            lambda: GaussianProcess(probe_fraction=1.1),
            r"GaussianProcess.probe_fraction=1.1 must lie in \(0, 1\]",
        ),
        (
            lambda: GaussianProcess(kappa=math.inf),
            r"GaussianProcess.kappa=inf must be finite and not negative",
        ),
        (
            lambda: GaussianProcess(grid_points=9),
            r"GaussianProcess.grid_points=9 must be at least probes=10",
        ),
        (
            lambda: GaussianProcess(choose_by=wrong("mean")),
            r"GaussianProcess.choose_by='mean' must be one of \('best_observed', 'posterior_mean'",
        ),
        (
            lambda: GaussianProcess(validation_evals=7),
            r"GaussianProcess.validation_evals=7 must be an integer of at least 8",
        ),
        (
            lambda: GaussianProcess(forecaster=wrong("exponential")),
            r"GaussianProcess.forecaster='exponential' must be a Forecaster",
        ),
        (
            lambda: Exponential(denoise_rounds=-1),
            r"Exponential.denoise_rounds=-1 must be an integer of at least 0",
        ),
        (
            lambda: Exponential(denoise_fraction=0.5),
            r"Exponential.denoise_fraction=0.5 must be None or lie in \[0, 0.5\)",
        ),
        (
            lambda: Exponential(denoise_window=1.5),
            r"Exponential.denoise_window=1.5 must lie in \[0, 1\]",
        ),
        (
            lambda: ScheduleFreeAverage(momentum=1.0),
            r"ScheduleFreeAverage.momentum=1.0 must be None or a number in \(0, 1\)",
        ),
        (lambda: EMA(decay=1.0), r"EMA.decay=1.0 must be a number in \(0, 1\)"),
        (
            lambda: EMA(calibration_batches=0),
            r"EMA.calibration_batches=0 must be an integer of at least 1",
        ),
        (
            lambda: Validation(every_steps=0),
            r"Validation.every_steps=0 must be None or an integer of at least 1",
        ),
        (lambda: Validation(keep_best=wrong(1)), r"Validation.keep_best=1 must be True or False"),
        (
            lambda: Validation(probe_samples=0),
            r"Validation.probe_samples=0 must be None or an integer of at least 1",
        ),
    ],
)
def test_each_part_checks_itself(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build()


def test_paper_is_the_paper():
    config = AutoLRSConfig.paper(50_000, (1e-3, 1.0))
    assert config.search == GaussianProcess(
        probes=10,
        probe_fraction=0.1,
        kappa=1000.0,
        choose_by="best_observed",
        forecaster=Exponential(denoise_rounds=10, denoise_fraction=0.03, denoise_window=0.5),
        validation_forecaster=Exponential(
            denoise_rounds=1, denoise_fraction=None, denoise_window=0.5
        ),
        validation_evals=16,
    )
    assert config.averaging is None
    assert config.stages == Stages(first_steps=1000, longest_steps=8000, growth=2)
    assert config.warmup == Warmup(steps=0)
    assert config.shape == Constant()
    assert config.validation == Validation(keep_best=False, probe_samples=1024)
    assert config.lanes == Lanes()


def test_paper_takes_other_parts():
    config = paper(search=GaussianProcess(probes=4), seed=3)
    assert (config.search, config.seed, config.averaging) == (GaussianProcess(probes=4), 3, None)
    with pytest.raises(TypeError, match="probes_per_stage"):
        paper(probes_per_stage=4)


def test_staged_is_the_default_in_ten_stages_with_looks():
    config = AutoLRSConfig.staged(2000, (1e-3, 1.0))
    assert config == AutoLRSConfig(
        total_steps=2000,
        lr=(1e-3, 1.0),
        stages=Stages(first_steps=200, growth=1),
        search=Bracket(research=Looks()),
    )
    stages = config.resolve(global_batch_size=8).plan().all_stages()
    assert [stage.first_step for stage in stages] == [*range(0, 2000, 200)]


def test_staged_takes_other_parts_any_lr_and_no_end():
    search = Bracket(research=Looks(budget=0.1))
    config = AutoLRSConfig.staged(None, search=search, seed=3)
    assert (config.search, config.seed, config.lr) == (search, 3, None)
    assert config.stages == Stages(first_steps=1000, growth=1)
    assert AutoLRSConfig.staged(100, 0.1).resolve(global_batch_size=8).stages.first_steps == 20
    assert AutoLRSConfig.staged(10, 0.1).resolve(global_batch_size=8).stages.first_steps == 10


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            default(total_steps=2300),
            {
                "search.probe_steps": 50,
                "averaging.momentum": 0.9,
                "stages.first_steps": 138,
                "stages.longest_steps": 575,
                "warmup.steps": 460,
                "warmup.power": 0.5,
                "validation.probe_samples": 512,
            },
        ),
        (
            default(averaging=None),
            {"warmup.steps": 50, "warmup.power": 1.0, "search.probe_steps": 21},
        ),
        (
            default(total_steps=None),
            {
                "search.probe_steps": 100,
                "stages.first_steps": 1000,
                "stages.longest_steps": 1000,
                "warmup.steps": 500,
            },
        ),
        (default(total_steps=None, averaging=None), {"warmup.steps": 100}),
        (default(total_steps=100), {"search.probe_steps": 12, "stages.first_steps": 20}),
        (paper(), {"warmup.steps": 0, "warmup.power": 1.0, "validation.probe_samples": 1024}),
        (
            default(
                search=Bracket(probe_steps=9, research=None),
                warmup=Warmup(steps=3, power=2.0, lr=0.1),
                stages=Stages(first_steps=7, longest_steps=9),
                averaging=ScheduleFreeAverage(momentum=0.5),
            ),
            {
                "search.probe_steps": 9,
                "averaging.momentum": 0.5,
                "stages.first_steps": 7,
                "stages.longest_steps": 9,
                "warmup.steps": 3,
                "warmup.power": 2.0,
            },
        ),
    ],
)
def test_every_number_is_filled_in_once(given, expected):
    resolved = given.resolve(global_batch_size=128)
    for path, value in expected.items():
        found = resolved
        for name in path.split("."):
            found = getattr(found, name)
        assert found == pytest.approx(value), path
    # Nothing is left to derive, whatever the batch is said to be.
    assert resolved.resolve(global_batch_size=8) == resolved


def test_what_may_be_none_of_a_resolved_config():
    stored = default().resolve(global_batch_size=128).to_json()["settings"]
    empty = [path for path, value in paths_of(stored) if value is None]
    # Each of them means something: no LR of its own, at a stage's end, what is free, Young's
    # interval, and what Ray Train's CheckpointConfig says.
    assert empty == [
        "warmup.lr",
        "validation.every_steps",
        "lanes.actors",
        "lanes.resources",
        "checkpoints.every_s",
        "checkpoints.every_steps",
        "checkpoints.keep",
    ]


@pytest.mark.parametrize(
    ("batch", "momentum"), [(1, 0.8), (32, 0.8), (128, 0.9), (512, 0.95), (4096, 0.95)]
)
def test_momentum_follows_the_batch(batch, momentum):
    averaging = default().resolve(global_batch_size=batch).averaging
    assert isinstance(averaging, ScheduleFreeAverage)
    assert averaging.momentum == pytest.approx(momentum)


def test_an_interval_must_be_known_to_resolve():
    with pytest.raises(ValueError, match=r"^AutoLRSConfig.lr=None must be known: run the LR range"):
        default(lr=None).resolve(global_batch_size=8)


@pytest.mark.parametrize(
    ("given", "first_step", "shape"),
    [
        (default(), 0, WarmupStableDecay(0, None, 200, 0, 0.5)),
        (default(warmup=Warmup(steps=0)), 0, Flat()),
        (default(shape=WSD()), 0, WarmupStableDecay(0, 1000, 200, 300, 0.5)),
        (default(shape=Cosine(), averaging=None), 0, WarmupCosine(0, 1000, 50, 1.0)),
        (
            default(shape=Linear(), averaging=None, warmup=Warmup(steps=0)),
            0,
            WarmupStableDecay(0, 1000, 0, 1000, 1.0),
        ),
        (paper(), 0, Flat()),
        (
            paper(
                warmup=Warmup(steps=100, lr=0.1),
                stages=Stages(first_steps=100, longest_steps=400),
                shape=WSD(decay_fraction=0.5),
            ),
            100,
            WarmupStableDecay(100, 900, 0, 450, 1.0),
        ),
    ],
)
def test_the_plan_holds_the_runs_shape(given, first_step, shape):
    plan = given.resolve(global_batch_size=8).plan()
    assert (plan.facts.first_step, plan.facts.shape) == (first_step, shape)
    assert plan.all_stages()[0].first_step == first_step


def test_a_warm_up_with_an_lr_is_a_segment_of_its_own():
    given = paper(warmup=Warmup(steps=4, lr=0.2), stages=Stages(first_steps=100, longest_steps=400))
    warmup = given.resolve(global_batch_size=8).plan().warmup
    assert warmup is not None
    assert [warmup.lr_at(step) for step in range(4)] == [0.05, 0.1, 0.15000000000000002, 0.2]
    assert default().resolve(global_batch_size=8).plan().warmup is None


class Bent:
    """A shape of a user's own."""

    needs_end = True
    decay_fraction = 1.0

    def __init__(self, factor):
        self.factor = factor

    def over(self, first_step, steps, *, warmup_steps, warmup_power):
        if callable(self.factor):
            return self
        return Piecewise(points=((first_step, 1.0), (first_step + steps, self.factor)))


def test_a_shape_of_ones_own_is_one_that_a_schedule_can_hold():
    plan = default(shape=Bent(0.5)).resolve(global_batch_size=8).plan()
    assert plan.facts.shape == Piecewise(points=((0, 1.0), (1000, 0.5)))
    with pytest.raises(ValueError, match=r"^AutoLRSConfig.shape=.* no saved schedule can hold"):
        default(shape=Bent(lambda step: 1.0))


def test_a_run_without_an_end_closes_as_its_shape_says():
    for shape, part in ((Constant(), 0.0), (WSD(decay_fraction=0.2), 0.2)):
        given = default(total_steps=None, shape=shape)
        assert given.resolve(global_batch_size=8).plan().closing_fraction == part
    assert default(shape=WSD()).resolve(global_batch_size=8).plan().closing_fraction == 0.0


def test_stored_settings_are_plain_and_tagged():
    stored = default().resolve(global_batch_size=128).to_json()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["format"] == "ray_autolrs.config/2"
    assert stored["version"]
    assert stored["settings"]["type"] == "AutoLRSConfig"
    assert stored["settings"]["search"] == {
        "type": "Bracket",
        "probe_steps": 21,
        "research": {
            "type": "Research",
            "factor": 2.0,
            "least_directness": 1.2,
            "tolerance": 0.02,
            "hysteresis": 0.002,
        },
    }
    assert stored["settings"]["lr"] == [1e-3, 1.0]


def test_a_continued_run_keeps_the_numbers_that_it_began_with(monkeypatch):
    given = default()
    began = given.resolve(global_batch_size=128)
    stored = json.loads(json.dumps(began.to_json()))
    # Later defaults, as another version of the package may have them.
    monkeypatch.setattr(
        Warmup, "resolve", lambda self, total, *, is_averaged: Warmup(steps=1, power=3.0)
    )
    monkeypatch.setattr(
        Bracket, "resolve", lambda self, facts: dataclasses.replace(self, probe_steps=99)
    )
    assert given.resolve(global_batch_size=128) != began
    assert given.continued(stored, global_batch_size=128) == began


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (default(seed=1), r"seed=0, not 1"),
        (default(total_steps=None), r"total_steps=1000, not None"),
        (default(lr=(1e-3, 0.5)), r"lr=\[0.001, 1.0\], not \[0.001, 0.5\]"),
        (default(lr=0.1), r"lr=\[0.001, 1.0\], not 0.1"),
        (default(warmup=Warmup(steps=7)), r"warmup.steps=200, not 7"),
        (default(search=Bracket(probe_steps=50)), r"search.probe_steps=21, not 50"),
        (default(search=Bracket(research=None)), r"search.research=None, not None"),
        (default(averaging=EMA()), r"averaging.type='ScheduleFreeAverage', not 'EMA'"),
        (default(shape=WSD()), r"shape.type='Constant', not 'WSD'"),
    ],
)
def test_a_run_is_not_continued_with_other_settings(changed, message):
    stored = default().resolve(global_batch_size=128).to_json()
    if "research" in message:
        message = r"search.research"
    with pytest.raises(ValueError, match=rf"^the run was started with {message}"):
        changed.continued(stored, global_batch_size=128)


def test_a_run_is_continued_on_other_lanes():
    stored = default().resolve(global_batch_size=128).to_json()
    moved = default(lanes=Lanes(kind="actors", actors=2, resources={"CPU": 2}))
    assert moved.continued(stored, global_batch_size=128).lanes == moved.lanes


@pytest.mark.parametrize("stored", [{"total_steps": 10}, None, [], {"format": "other/1"}])
def test_settings_of_another_format_are_refused(stored):
    with pytest.raises(ValueError, match=r"^the stored settings have format .* use another name"):
        default().continued(stored, global_batch_size=128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneLR(SearchStrategy):
    """Tries nothing: a strategy of a user's own."""

    peak_lr: float | None = None
    guesses: tuple[float, ...] = (0.1,)

    def resolve(self, facts):
        return dataclasses.replace(self, peak_lr=self.guesses[0])

    def suggest(self, context, told, running):
        return None

    def choose(self, context, told, rejected):
        raise NotImplementedError


def test_parts_of_ones_own_are_stored_compared_and_continued_like_ours():
    given = default(search=OneLR())
    stored = given.resolve(global_batch_size=8).to_json()
    assert stored["settings"]["search"] == {
        "type": f"{__name__}:OneLR",
        "peak_lr": 0.1,
        "guesses": [0.1],
    }
    stored["settings"]["search"]["peak_lr"] = 0.3  # what another version derived
    assert given.continued(stored, global_batch_size=8).search == OneLR(peak_lr=0.3)
    with pytest.raises(ValueError, match=r"search.guesses=\[0.1\], not \[0.2\]"):
        default(search=OneLR(guesses=(0.2,))).continued(stored, global_batch_size=8)


def test_settings_are_put_in_by_path():
    given = paper().replaced(
        ("search.probes", 5),
        ("search.forecaster.denoise_rounds", 2),
        ("stages.first_steps", 100),
        ("stages.longest_steps", 100),
        ("lr", [1e-4, 0.1]),
        ("total_steps", 2000),
    )
    assert given.search == GaussianProcess(probes=5, forecaster=Exponential(denoise_rounds=2))
    assert given.stages == Stages(first_steps=100, longest_steps=100)
    assert (given.lr, given.total_steps) == ((1e-4, 0.1), 2000)
    assert default().replaced(("averaging", None)).averaging is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("probes", r"AutoLRSConfig has no setting 'probes'; it has total_steps, lr, seed, search"),
        ("search.kappa", r"Bracket has no setting 'kappa'; it has probe_steps, research"),
        ("seed.value", r"AutoLRSConfig.seed=0 has no setting 'value': it is not made of parts"),
        ("search.probe_steps", r"Bracket.probe_steps=3 must be None or an integer of at least 8"),
    ],
)
def test_unknown_paths_and_refused_values(path, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        default().replaced((path, 3))


def test_a_config_needs_neither_ray_nor_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'torch']))\n"
        "from ray_autolrs import AutoLRSConfig, Bracket, Lanes, Stages, Validation, Warmup\n"
        "AutoLRSConfig(total_steps=100, lr=0.1).resolve(global_batch_size=8).plan()\n"
        "AutoLRSConfig.paper(2000, (0.01, 1.0)).resolve(global_batch_size=8).to_json()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def paths_of(settings, path=""):
    for name, value in settings.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            yield from paths_of(value, here)
        else:
            yield here, value
