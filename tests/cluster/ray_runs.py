"""Runs on a real Ray that are compared with each other, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_autolrs import AutoLRSTrainer, GaussianProcess, Lanes
from tests.cluster.test_local_run import events_without_times
from tests.digits_task import DigitsTask, short_config

PARALLEL_PROBES = 4
"""Asked for at a time, whatever the lanes: the schedule depends on it."""

TOGETHER = Lanes(kind="sequential")


def trainer(
    path: Path, name: str = "run", task=None, num_workers=2, max_failures=0, **parts
) -> AutoLRSTrainer:
    folder = path / name
    if not folder.exists():
        folder.mkdir()
        record = {"kind": "lanes", "parallel_probes": PARALLEL_PROBES}
        (folder / "events.jsonl").write_text(json.dumps(record) + "\n")
    values = {"search": GaussianProcess(probes=6, validation_evals=8), "lanes": TOGETHER}
    return AutoLRSTrainer(
        task or DigitsTask(),
        short_config(**(values | parts)),
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(
            name=name,
            storage_path=str(path),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )


def assert_bit_equal(result, expected) -> None:
    assert result.schedule == expected.schedule
    assert result.metrics == expected.metrics
    state, expected_state = model_state(result), model_state(expected)
    assert all(torch.equal(state[name], expected_state[name]) for name in expected_state)


def model_state(result) -> dict[str, torch.Tensor]:
    with result.checkpoint.as_directory() as folder:
        state: dict[str, torch.Tensor] = torch.load(f"{folder}/model.pt")
    return state


def probes(path: str | Path) -> dict[tuple[int, int], tuple[Any, ...]]:
    """What each probe of a run has seen."""
    seen = ("peak_lr", "training_losses", "validation_losses")
    return {
        (event["stage"], event["index"]): tuple(event[name] for name in seen)
        for event in events_without_times(Path(path))
        if event["kind"] == "probe"
    }


def lanes(result) -> set[str]:
    return {event["lane"] for event in result.events if event["kind"] == "probe"}
