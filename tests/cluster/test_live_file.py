"""A run under way tells what it is doing; the page shows it; nothing of it stays."""

from __future__ import annotations

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.cluster.live_file import MOST_LOSSES, LiveFile
from ray_autolrs.cluster.run_folder import LIVE_FILE, RunFolder
from ray_autolrs.report.html_page import html_page
from ray_autolrs.report.run_view import RunView
from ray_autolrs.sinks.sink import Status
from tests.cluster.tiny_runs import tiny_trainer
from tests.report.pages import Page
from tests.report.test_report import LOG

APPLY = Apply(3, Segment(200, 1199, 0.1))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "run")


def test_a_long_stage_s_losses_are_bounded_and_by_applied_steps(folder):
    live = LiveFile(folder, interval_s=0.0)
    for done in range(1, 1001):
        live.progress(Status(APPLY, done, 1.0 / done))
        live.progress(Status(APPLY, done, 1.0 / done))  # asked twice, nothing new
    told = folder.read_json(LIVE_FILE)
    assert (told["stage"], told["steps_done"], told["steps"]) == (3, 1000, 1000)
    assert MOST_LOSSES / 3 < len(told["losses"]) <= MOST_LOSSES
    assert told["losses"][-1] == [1200, 1 / 1000]
    live.progress(Status(Probe(4, 0, Segment(1200, 1209, 0.2)), 5, 2.0))
    assert folder.read_json(LIVE_FILE) == {
        "text": "stage 4 probe 1 lr 0.2",
        "steps_done": 5,
        "steps": 10,
    }
    live.close()
    live.close()
    assert folder.names() == []


def test_the_page_shows_what_is_done_now_and_the_stage_s_losses_so_far():
    live = {"text": "stage 3 apply lr 0.1", "steps_done": 2, "steps": 1000, "stage": 3}
    view = RunView("live", LOG[:-1], live=live | {"losses": [[201, 0.5], [202, 0.4]]})
    page = Page(html_page(view, refresh_s=5.0))
    assert page.texts("p", "doing") == ["Now: stage 3 apply lr 0.1, 2 of 1,000 steps."]
    assert "training loss, so far" in page.texts("title")
    over = Page(html_page(RunView("over", LOG, live=view.live)))
    assert over.texts("p", "doing") == []
    assert "training loss, so far" not in over.texts("title")


def test_a_run_that_has_ended_leaves_no_live_file(tmp_path):
    tiny_trainer(tmp_path).fit()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "report.html" in names
    assert "live.json" not in names
