"""A staged run in this process: where it looks, what that costs, and what it goes on from."""

from __future__ import annotations

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Bracket, Looks
from ray_autolrs.algorithm.search.looks import FIRST_LOOK, MOST_OTHERS
from tests.digits_task import DigitsTask

STEPS, STAGE_STEPS, LOOK_STEPS = 200, 20, 10


def test_a_staged_run_looks_and_goes_on_from_the_winner_s_probe(tmp_path):
    looks_up = Looks(least_directness=0.0)  # whatever the way was
    config = AutoLRSConfig.staged(STEPS, (1e-2, 0.3), search=Bracket(research=looks_up))
    result = AutoLRSTrainer(
        DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="staged", storage_path=str(tmp_path)),
    ).fit()
    segments = result.schedule.segments
    assert [segment.first_step for segment in segments] == [*range(0, STEPS, STAGE_STEPS)]
    events = result.events
    looks = [e for e in events if e["kind"] == "probe" and e["stage"] == FIRST_LOOK]
    before = segments[FIRST_LOOK - 2].peak_lr
    assert [look["peak_lr"] for look in looks[:2]] == pytest.approx([before, 2 * before])
    assert 2 <= len(looks) <= 1 + MOST_OTHERS
    assert {look["steps"] for look in looks} == {LOOK_STEPS}
    assert {look["objective"] for look in looks} == {"validation"}
    applied = {event["stage"]: event for event in events if event["kind"] == "apply"}
    assert applied[FIRST_LOOK]["reused_steps"] == LOOK_STEPS
    assert segments[FIRST_LOOK - 1].peak_lr in [look["peak_lr"] for look in looks]
    searched = sum(e["steps"] for e in events if e["kind"] == "probe" and e["stage"] > 1)
    reused = sum(event["reused_steps"] for event in applied.values())
    assert searched - reused <= looks_up.budget * STEPS
