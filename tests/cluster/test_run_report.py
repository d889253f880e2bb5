"""Reports of runs that were trained: the page's numbers are the run's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSTrainer
from ray_autolrs.cluster import run_report
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.run_report import (
    read_run,
    watch,
    write_history,
    write_picture,
    write_report,
)
from ray_autolrs.report.charts.axes import number
from ray_autolrs.report.surrogate import pictures
from tests.cluster.tiny_runs import TinyTask, tiny_trainer
from tests.digits_task import DigitsTask, short_config
from tests.report.chromium import CHROMIUM, Chromium
from tests.report.pages import Page


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def results(storage):
    """A run of the default and one of the paper's search, by name."""
    paper = AutoLRSTrainer(
        DigitsTask(),
        short_config(),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="paper", storage_path=str(storage)),
    )
    return {"default": tiny_trainer(storage, name="default").fit(), "paper": paper.fit()}


def page_of(result):
    return Page((Path(result.path) / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_page_s_numbers_are_the_run_s(results, name):
    result, page = results[name], page_of(results[name])
    assert page.texts("h1") == [f"{name} finished"]
    figures = page.figures()
    for metric, value in result.metrics.items():
        assert figures[f"validation {metric}"] == number(value)
    assert figures["applied steps"] == number(result.costs.apply_steps)
    assert figures["search steps"] == number(result.costs.probe_steps)
    assert figures["GPU hours"] == "0"
    lrs = [event["peak_lr"] for event in result.events if event["kind"] == "choice"]
    assert figures["peak LR"] in (
        number(lrs[0], 3),
        f"{number(min(lrs), 3)} – {number(max(lrs), 3)}",
    )
    assert figures["search"] == type(result.config.search).__name__
    assert figures["total_steps"] == str(result.config.total_steps)
    probes = [event for event in result.events if event["kind"] == "probe"]
    titles = [title for title in page.texts("title") if title.startswith("stage ")]
    for probe in probes:
        head = (
            f"stage {probe['stage']}, probe {probe['index'] + 1}: LR {number(probe['peak_lr'], 3)}"
        )
        assert any(title.startswith(head) for title in titles)
    assert "torch" in page.texts("section")[-1]


def test_the_paper_s_page_has_a_picture_before_each_probe_that_a_fit_asked_for(results):
    page, labels = page_of(results["paper"]), page_of(results["paper"]).attributes("data-label")
    assert [label.split(":")[0] for label in labels[:4]] == [
        "Stage 1",
        "After 1 result",
        "After 2 results",
        "After 3 results",
    ]
    assert len(labels) == 3 * (1 + 3)
    assert len(page.texts("path", "band")) == 3 * 3
    assert "Forecast against outcome" in page.texts("h2")
    assert not page_of(results["default"]).texts("path", "band")


def test_each_picture_s_bound_is_least_where_the_search_asked(results):
    view = read_run(RunFolder.of_run(results["paper"].path))
    drawn = [picture for stage in view.searched for picture in pictures(stage, view.settings)]
    assert len(drawn) == 9
    for picture in drawn:
        least = np.log(picture.lrs[np.argmin(picture.bound)])
        cell = np.log(picture.lrs[1] / picture.lrs[0])
        assert least == pytest.approx(np.log(picture.probe["peak_lr"]), abs=cell)


def test_a_forecast_s_course_ends_at_the_forecast(results):
    probes = [event for event in results["paper"].events if event["kind"] == "probe"]
    courses = [probe for probe in probes if probe["forecast_course"]]
    assert courses
    for probe in courses:
        assert probe["forecast_course"][-1] == pytest.approx(probe["forecast"])


def test_a_run_that_failed_has_a_report_of_what_it_did(tmp_path):
    with pytest.raises(OSError, match="the power is gone"):
        tiny_trainer(tmp_path, TinyTask(breaks_after=5)).fit()
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert page.texts("span", "status") == ["not finished"]


def test_a_report_that_fails_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_report, "html_page", lambda *_, **__: 1 / 0)
    assert tiny_trainer(tmp_path).fit().costs.apply_steps == 100
    assert "could not be written" in caplog.text


def test_watch_writes_whenever_the_log_has_grown_until_the_run_has_finished(results, tmp_path):
    run = tmp_path / "live"
    shutil.copytree(results["default"].path, run, ignore=shutil.ignore_patterns("checkpoint*"))
    log = run / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    seen = []

    def go_on(path):
        seen.append(Page(Path(path).read_text(encoding="utf-8")).texts("span", "status")[0])
        log.write_text("".join(lines[: len(lines) - 2 + len(seen)]))

    log.write_text("".join(lines[:-2]))
    assert watch(run, interval_s=0.01, on_write=go_on) == str(run / "report.html")
    assert seen == ["not finished", "not finished", "finished"]


def test_reports_need_neither_ray_nor_torch(results, tmp_path):
    code = (
        "import sys\n"
        "from ray_autolrs.cluster.run_report import write_report\n"
        "print(write_report(sys.argv[1], sys.argv[2]))\n"
        "assert not {'torch', 'ray', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    out = tmp_path / "page.html"
    arguments = [sys.executable, "-c", code, results["paper"].path, str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert out.read_text() == (Path(results["paper"].path) / "report.html").read_text()


def test_pictures_and_tables_of_a_run(results, tmp_path):
    path = results["default"].path
    write_picture(path, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    figure = results["paper"].plot(tmp_path / "paper.svg")
    assert [axes.get_title() for axes in figure.axes] == [
        "Learning rate",
        "Loss",
        "What LRs promised in stage 1",
    ]
    for suffix, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        write_history(path, tmp_path / f"history{suffix}")
        stored = read(tmp_path / f"history{suffix}")
        pd.testing.assert_frame_equal(stored, results["default"].history, check_dtype=False)
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.csv"):
        write_history(path, tmp_path / "history.xlsx")


def test_what_is_no_run_s_folder_is_refused_and_left_alone(results, tmp_path):
    with pytest.raises(
        ValueError, match=r"missing is not a run's folder: it holds no events\.jsonl"
    ):
        write_report(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
    run = tmp_path / "damaged"
    shutil.copytree(results["default"].path, run, ignore=shutil.ignore_patterns("checkpoint*"))
    (run / "schedule.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="damaged: expected an object with format="):
        write_report(run)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_in_a_browser_it_renders_its_sliders_move_and_no_request_leaves(
    results, browser, width, scheme
):
    url = (Path(results["paper"].path) / "report.html").as_uri()
    browser.open(url, width=width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("document.querySelectorAll('.canvas').length") > 10
    empty = (
        "[...document.querySelectorAll('.canvas')].filter(c => c.offsetParent && !c.clientWidth)"
    )
    assert browser.evaluate(f"{empty}.length") == 0
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")
    shown = "[...document.querySelectorAll('.frames[data-key=stage] > .frame')].map(f => !f.hidden)"
    slide = (
        "(() => { const s = document.querySelector('.frames[data-key=stage] > .slider input');"
        "s.value = {}; s.dispatchEvent(new Event('input')); "
        "return document.querySelector('output').textContent; })()"
    )
    for place in (2, 0):
        label = browser.evaluate(slide.replace("{}", str(place)))
        assert label.startswith(f"Stage {place + 1}: 4 probes")
        assert browser.evaluate(shown) == [stage == place for stage in range(3)]
    asked = [e["params"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [request["request"]["url"] for request in asked] == [url]
    faults = ("Log.entryAdded", "Runtime.exceptionThrown")
    assert [event for event in browser.events if event.get("method") in faults] == []
