"""Whole runs by the default method in this process: files, restarts, the averaged model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import (
    EMA,
    WSD,
    AutoLRSConfig,
    AutoLRSTrainer,
    Bracket,
    ScheduleFreeAverage,
    Stages,
    Validation,
    Warmup,
)
from tests.cluster.interruption import copied_at_each_answer
from tests.digits_task import DigitsTask

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    # The best LR lies beyond the interval's end, so that a later stage is searched, too.
    "edge": {"lr": (1e-4, 0.01)},
    "ema": {"averaging": EMA(), "shape": WSD()},
}


def config(kind: str = "default") -> AutoLRSConfig:
    values: dict[str, Any] = {
        "total_steps": 200,
        "lr": (1e-3, 3.0),
        "search": Bracket(probe_steps=12),
        "stages": Stages(longest_steps=80),
    }
    return AutoLRSConfig(**(values | KINDS[kind]))


def trainer(path: Path, kind: str = "default") -> AutoLRSTrainer:
    return AutoLRSTrainer(
        DigitsTask(),
        config(kind),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=kind, storage_path=str(path)),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One whole run of each kind, copied on its way."""
    path = tmp_path_factory.mktemp("storage")
    results = {}
    for kind in KINDS:
        with copied_at_each_answer(path / kind, path / "copies"):
            results[kind] = trainer(path, kind).fit()
    return results


def of_kind(result: Any, kind: str) -> list[Any]:
    return [event for event in result.events if event["kind"] == kind]


def model_of(result: Any) -> dict[str, torch.Tensor]:
    with result.checkpoint.as_directory() as folder:
        model: dict[str, torch.Tensor] = torch.load(f"{folder}/model.pt")
    return model


def test_the_run_is_searched_once_and_trained_at_one_lr(finished: dict[str, Any]):
    result = finished["default"]
    probes = of_kind(result, "probe")
    assert [(probe["stage"], probe["index"]) for probe in probes] == [(1, i) for i in range(4)]
    assert [probe["steps"] for probe in probes] == [12] * 4
    assert {probe["objective"] for probe in probes} == {"validation"}
    assert result.costs.probe_steps == result.config.plan().planned_probe_steps() == 48
    assert result.costs.apply_steps == 200
    assert [event["steps"] for event in of_kind(result, "apply")] == [20, 40, 80, 60]
    assert len({segment.peak_lr for segment in result.schedule.segments}) == 1
    first_step, last_step = result.schedule.lr_at(0), result.schedule.lr_at(199)
    assert first_step == pytest.approx(last_step / math.sqrt(40))  # a warm-up of 40 steps
    assert result.metrics["accuracy"] > 0.8


def test_an_lr_that_is_too_low_is_raised_within_the_interval(finished: dict[str, Any]):
    result = finished["edge"]
    probes = of_kind(result, "probe")
    assert [probe["stage"] for probe in probes][:3] == [1] * 3
    assert {probe["stage"] for probe in probes} >= {1, 3}
    stays, moves = [probe for probe in probes if probe["stage"] == 3]
    third, second = (result.schedule.segments[stage - 1].peak_lr for stage in (3, 2))
    assert stays["peak_lr"] == second < moves["peak_lr"] == third
    assert all(1e-4 <= probe["peak_lr"] <= 0.01 for probe in probes)
    assert result.costs.probe_steps + sum(
        event["reused_steps"] for event in of_kind(result, "apply")
    ) == sum(probe["steps"] for probe in probes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_holds_the_averaged_weights(finished: dict[str, Any], kind: str):
    result, task = finished[kind], DigitsTask()
    model = task.build_model()
    model.load_state_dict(model_of(result))
    model.eval()
    with torch.no_grad():
        loss = task.loss(model, list(task.val_dataset().tensors)).item()
    assert loss == pytest.approx(result.metrics["loss"], rel=1e-6)
    # Which are not those that training goes on from.
    with result.checkpoint.as_directory() as folder:
        state = torch.load(f"{folder}/state.pt", weights_only=True)
    model.load_state_dict(state["tensors"])
    with torch.no_grad():
        other = task.loss(model, list(task.val_dataset().tensors)).item()
    assert abs(other - loss) > 1e-4 * loss


def interrupted(finished: dict[str, Any], kind: str, answered: int) -> Path:
    """Return where a run lies that has died after so many answered events."""
    return Path(finished[kind].path).parent / "copies" / str(answered)


@pytest.mark.parametrize(
    ("kind", "answered"),
    [
        *(("default", answered) for answered in range(1, 9)),
        *(("edge", answered) for answered in (6, 7, 8)),
        ("ema", 7),
    ],
)
def test_a_run_interrupted_anywhere_ends_bit_equal(
    finished: dict[str, Any], kind: str, answered: int
):
    resumed, expected = trainer(interrupted(finished, kind, answered), kind).fit(), finished[kind]

    assert resumed.schedule == expected.schedule
    assert resumed.metrics == expected.metrics
    probes = [(probe["stage"], probe["index"]) for probe in of_kind(resumed, "probe")]
    assert len(set(probes)) == len(of_kind(expected, "probe"))
    model, wanted = model_of(resumed), model_of(expected)
    assert model.keys() == wanted.keys()
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("answered", [2, 6])
def test_a_continued_run_keeps_the_numbers_that_it_began_with(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int
):
    """Whatever another version of the package derives."""
    shutil.copytree(interrupted(finished, "default", answered), tmp_path, dirs_exist_ok=True)
    began = finished["default"].config
    later: list[tuple[type, dict[str, Any]]] = [
        (Warmup, {"steps": 1, "power": 3.0}),
        (Stages, {"first_steps": 24}),
        (ScheduleFreeAverage, {"momentum": 0.5}),
        (Validation, {"probe_samples": 8}),
    ]
    for part, numbers in later:
        monkeypatch.setattr(
            part,
            "resolve",
            lambda self, *_, numbers=numbers, **__: dataclasses.replace(self, **numbers),
        )
    assert config().resolve(global_batch_size=32) != began
    resumed, expected = trainer(tmp_path).fit(), finished["default"]
    assert resumed.config == began
    assert resumed.schedule == expected.schedule
    assert resumed.metrics == expected.metrics


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"total_steps": 200, "probe_lanes": "auto"}, r"have format None, and this version"),
        ({"format": "ray_autolrs.config/99", "settings": {}}, r"have format 'ray_autolrs.config/9"),
        ([], r"have format 'list', and this version"),
    ],
)
def test_a_run_with_settings_of_another_format_is_refused(
    finished: dict[str, Any], tmp_path: Path, content: Any, message: str
):
    shutil.copytree(interrupted(finished, "default", 2), tmp_path, dirs_exist_ok=True)
    (tmp_path / "default" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{tmp_path}/default: the stored settings {message}"):
        trainer(tmp_path).fit()


def test_a_run_continued_with_another_setting_is_refused_by_its_path(finished: dict[str, Any]):
    run = trainer(Path(finished["default"].path).parent)
    run.config = run.config.replaced(("search.probe_steps", 9), ("lanes.kind", "sequential"))
    with pytest.raises(ValueError, match=r"was started with search.probe_steps=12, not 9; use"):
        run.fit()
