from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_autolrs
from ray_autolrs.commands.command_line import COMMANDS, FAILED, MISUSED, OK, main
from ray_autolrs.schedule import LRSchedule

TINY = "tests.cluster.tiny_runs:TinyTask"
TRAIN = ["train", TINY, "--total-steps", "100", "--num-workers", "0"]


def settings_of(run: Path) -> dict:
    stored: dict = json.loads((run / "config.json").read_text())["settings"]
    return stored


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, of other settings."""
    storage = tmp_path_factory.mktemp("storage")
    words = [*TRAIN, "--lr", "0.001", "0.3", "--storage-path", str(storage)]
    assert main(words) == OK
    options = ["--search.probe-steps", "12", "--seed", "3", "--validation.no-keep-best"]
    named = ["--set", "shape=WSD", "shape.decay_fraction=0.4", "averaging=null"]
    assert main([*words, "--name", "other", *options, *named]) == OK
    return storage


def test_options_reach_the_settings_by_path(runs):
    plain, other = settings_of(runs / "tinytask"), settings_of(runs / "other")
    assert plain["lr"] == other["lr"] == [0.001, 0.3]
    assert plain["shape"] == {"type": "Constant"}
    assert other["shape"] == {"type": "WSD", "decay_fraction": 0.4}
    assert plain["averaging"]["type"] == "ScheduleFreeAverage"
    assert other["averaging"] is None
    assert (other["search"]["probe_steps"], other["seed"]) == (12, 3)
    assert (plain["validation"]["keep_best"], other["validation"]["keep_best"]) == (True, False)


def test_method_of_the_paper(capsys):
    words = ["train", TINY, "--method", "paper", "--num-workers", "0"]
    assert main([*words, "--total-steps", "2000"]) == MISUSED
    assert "--lr" in capsys.readouterr().err
    # Its own parts have options: the search is a Gaussian process.
    few = [*words, "--total-steps", "900", "--lr", "0.001", "0.3", "--search.probes", "3"]
    assert main(few) == MISUSED
    assert "one stage of 1000" in capsys.readouterr().err


def test_train_tells_what_came_out(runs, capsys):
    words = [*TRAIN, "--lr", "0.001", "0.3", "--storage-path", str(runs)]
    assert main(words) == OK  # It had finished: its result is told again.
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["stage", "lr"]
    assert re.fullmatch(r"validation: loss \d\.\d{4}", lines[-2])
    assert lines[-1] == f"files: {runs / 'tinytask'}"


def test_compare_tells_what_differs(runs, capsys):
    assert main(["compare", str(runs / "tinytask"), str(runs / "other")]) == OK
    header, first, second, *rest = capsys.readouterr().out.splitlines()
    assert header.startswith("run")
    assert [row.split()[:3] for row in (first, second)] == [
        ["tinytask", "finished", "100"],
        ["other", "finished", "100"],
    ]
    assert "seed: tinytask 0, other 3" in rest
    assert main(["compare", str(runs / "tinytask")]) == MISUSED
    assert "at least two" in capsys.readouterr().err
    assert main(["compare", str(runs / "tinytask"), str(runs)]) == MISUSED
    assert f"{runs} is not a run's folder" in capsys.readouterr().err


def test_report_is_written(runs, tmp_path, capsys):
    page, table = tmp_path / "page.html", tmp_path / "probes.csv"
    words = ["report", str(runs / "tinytask"), "--output", str(page), "--history", str(table)]
    assert main(words) == OK
    assert capsys.readouterr().out == f"written: {page}\nwritten: {table}\n"
    assert "<html" in page.read_text()
    assert table.read_text().startswith("kind,")
    assert main(["report", str(tmp_path / "nothing")]) == MISUSED
    assert "nothing" in capsys.readouterr().err


def test_schedule_is_shown_exported_and_drawn(runs, tmp_path, capsys):
    schedule = LRSchedule.load(runs / "other" / "schedule.json")
    assert main(["schedule", "show", str(runs / "other")]) == OK
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(schedule.segments) + 1
    assert shown[0].startswith("steps 0-")

    file = tmp_path / "lrs.csv"
    path = str(runs / "other" / "schedule.json")
    assert main(["schedule", "export", path, str(file), "--every", "10"]) == OK
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert rows[0] == ["step", "lr"]
    assert {int(step): float(lr) for step, lr in rows[1:]} == {
        step: schedule.lr_at(step) for step in range(0, 100, 10)
    }
    capsys.readouterr()
    assert main(["schedule", "export", path, "--every", "99"]) == OK
    assert [row.split(",")[0] for row in capsys.readouterr().out.split()] == ["step", "0", "99"]
    assert main(["schedule", "export", path, "--every", "0"]) == MISUSED

    image = tmp_path / "lrs.png"
    assert main(["schedule", "plot", path, str(image)]) == OK
    assert image.read_bytes().startswith(b"\x89PNG")


def test_range_test_tells_an_interval(tmp_path, capsys):
    words = ["range-test", TINY, "--steps", "40", "--device", "cpu"]
    assert main([*words, "--plot", str(tmp_path / "range.png")]) == OK
    found = re.match(r"interval: (\S+) to (\S+), after \d+ steps", capsys.readouterr().out)
    assert found
    assert 0 < float(found[1]) < float(found[2])
    assert (tmp_path / "range.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frobnicate"], "frobnicate"),
        (["train", TINY], "--total-steps"),
        ([*TRAIN, "--searhc.probe-steps", "9"], "--searhc.probe-steps"),
        ([*TRAIN, "--set", "searhc.probe_steps=9"], "has no setting 'searhc'"),
        ([*TRAIN, "--set", "seed"], "must be PATH=VALUE"),
        ([*TRAIN, "--lr", "0.3", "0.1"], "0 < low < high"),
        (["train", "quickstart", "--total-steps", "100"], "must be MODULE:NAME"),
        (["train", "no_such:Task", "--total-steps", "100"], "no module 'no_such'"),
        (["train", "json:Task", "--total-steps", "100"], "json has no 'Task'"),
        (["train", "json:JSONDecoder", "--total-steps", "100"], "is not a TrainingTask"),
        (["train", TINY, "--total-steps", "100", "--num-workers", "3"], "num_workers=3"),
        (["schedule", "show", "no-such-run"], "no-such-run"),
    ],
)
def test_what_cannot_be_followed(words, told, capsys):
    assert main(words) == MISUSED
    assert told in capsys.readouterr().err


def test_a_run_that_fails(tmp_path, capsys, monkeypatch):
    (tmp_path / "breaking.py").write_text(
        "from tests.cluster.tiny_runs import TinyTask\ntask = TinyTask(breaks_after=20)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["train", "breaking:task", "--total-steps", "100", "--num-workers", "0"]
    assert main(words) == FAILED
    told = capsys.readouterr().err
    assert "in loss\n" in told  # where it was raised
    assert "the power is gone" in told


def test_help_of_each_command_has_examples_that_name_it(capsys):
    for words in [["train"], *([name] for name in COMMANDS if name != "schedule")] + [
        ["schedule", action] for action in ("show", "export", "plot")
    ]:
        assert main([*words, "--help"]) == OK
        text = capsys.readouterr().out
        assert re.search(rf"^    ray-autolrs {' '.join(words)}", text, re.MULTILINE), words
    assert main(["--help"]) == OK
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("train", *COMMANDS))


def test_completion_for_shells(capsys):
    assert main(["--tyro-print-completion", "bash"]) == OK
    script = capsys.readouterr().out
    assert "range-test" in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0


def test_folder_of_the_jobs(capsys):
    assert main(["jobs"]) == OK
    assert Path(capsys.readouterr().out.strip()) == Path(ray_autolrs.__file__).parents[1] / "jobs"


def test_module_is_the_command():
    ran = subprocess.run(
        [sys.executable, "-m", "ray_autolrs", "jobs"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip().endswith("jobs")
