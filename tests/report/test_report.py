from __future__ import annotations

import pandas as pd
import pytest

from ray_autolrs.report.costs import Costs, count_costs
from ray_autolrs.report.history import COLUMNS, history_frame
from ray_autolrs.report.lines import describe
from ray_autolrs.report.stage_table import stage_table


def probe(stage, index, *, lr=0.1, diverged=False, steps=10, objective="training"):
    return {
        "kind": "probe",
        "stage": stage,
        "index": index,
        "first_step": 100,
        "peak_lr": lr,
        "objective": objective,
        "forecast": None if diverged else 0.5,
        "forecast_std": None if diverged else 0.01,
        "diverged": diverged,
        "steps": steps,
        "forward_steps": 0.5,
        "wall_s": 1.0,
        "training_losses": [2.0, None] if diverged else [2.0, 1.25],
        "validation_losses": [0.75] if objective == "validation" else [],
    }


def apply(stage, *, steps=100, diverged=False, lr=0.1, reused_steps=0):
    return {
        "kind": "apply",
        "stage": stage,
        "segment": {"first_step": 100, "last_step": 99 + steps, "peak_lr": lr},
        "diverged": diverged,
        "steps": steps,
        "reused_steps": reused_steps,
        "wall_s": 4.0,
        "evaluations": []
        if diverged
        else [[100 + steps, "loss", 0.75], [100 + steps, "top1", 0.5]],
        "training_losses": [2.0] * (steps - 10) + [1.0] * 10,
    }


def choice(stage, lr=0.1):
    return {
        "kind": "choice",
        "stage": stage,
        "peak_lr": lr,
        "index": 0,
        "forecast": 0.5,
        "forecast_std": 0.01,
        "reason": "lowest forecast",
        "first_step": 100,
        "steps": 100,
    }


LOG = [
    {"kind": "ready", "step": 0},
    apply(0, steps=20),
    probe(1, 0),
    probe(1, 1, diverged=True, steps=3),
    choice(1),
    apply(1, diverged=True, steps=30),
    choice(1),
    apply(1),
    probe(2, 0, lr=0.2, objective="validation"),
    choice(2, lr=0.2),
    apply(2, lr=0.2),
    {"kind": "ready", "step": 200},
    apply(2, lr=0.2),
    {"kind": "finished", "apply_steps": 220, "probe_steps": 23},
]


@pytest.mark.parametrize(
    ("stage", "costs"),
    [
        # Lost: 30 steps that diverged, and 100 that a restart repeated.
        (None, Costs(23, 220, 130, 3.0, 20.0, 1.5)),
        (0, Costs(0, 20, 0, 0.0, 4.0)),
        (1, Costs(13, 100, 30, 2.0, 8.0, 1.0)),
        (2, Costs(10, 100, 100, 1.0, 8.0, 0.5)),
        (3, Costs()),
    ],
)
def test_costs(stage, costs):
    assert count_costs(LOG, stage) == costs


def test_search_fraction_counts_probes_forward_passes_and_lost_steps():
    assert count_costs(LOG).search_fraction == pytest.approx((23 + 1.5 + 130) / 220)
    assert Costs().search_fraction == 0.0


def test_steps_that_a_stage_went_on_from_are_not_the_search_s():
    assert count_costs([probe(1, 0), apply(1, reused_steps=10)]).probe_steps == 0


def test_stage_table():
    assert stage_table(LOG).splitlines() == [
        "  stage   lr   judged by  forecast  outcome  probe steps  apply steps  seconds",
        "warm-up  0.1           -         -        -            0           20      4.0",
        "      1  0.1    training       0.5        1           13          100     10.0",
        "      2  0.2  validation       0.5     0.75           10          100      9.0",
        "    sum                                               23          220     23.0",
    ]


def test_history():
    history = history_frame(LOG)
    assert list(history.columns) == [*COLUMNS, "top1"]
    assert (
        list(history["kind"])
        == ["evaluation", "probe", "probe", "evaluation", "probe"] + ["evaluation"] * 2
    )
    assert list(history["loss"].iloc[:2]) == [0.75, 1.25]
    assert pd.isna(history["loss"].iloc[2])
    assert history["top1"].iloc[-1] == 0.5
    assert list(history["step"].iloc[[1, 3]]) == [100, 200]


def test_history_of_nothing_has_its_columns():
    assert list(history_frame([]).columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (LOG[0], "workers ready at step 0"),
        (
            LOG[2],
            "stage 1 probe 1: lr 0.1 forecasts training loss 0.5 ± 0.01 from 1.25 after 10 steps",
        ),
        (LOG[3], "stage 1 probe 2: lr 0.1 diverged after 3 steps"),
        (
            LOG[4],
            "stage 1: apply lr 0.1 (lowest forecast, loss 0.5) to steps 100-199",
        ),
        (
            choice(1) | {"forecast": None, "reason": "not searched"},
            "stage 1: apply lr 0.1 (not searched) to steps 100-199",
        ),
        (
            LOG[2] | {"forecast_std": None},
            "stage 1 probe 1: lr 0.1 has training loss 0.5 after 10 steps",
        ),
        (LOG[5], "stage 1: diverged after 30 steps, back to its start"),
        (LOG[1], "warm-up: applied, training loss 1; validation loss 0.75, top1 0.5"),
        (LOG[13], "finished: 220 applied and 23 probe steps"),
        ({"kind": "note"}, None),
    ],
)
def test_lines(record, line):
    assert describe(record) == line
