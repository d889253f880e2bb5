"""Folders that lack files, and folders that are no run's: whole runs in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ray_autolrs import LRSchedule
from tests.cluster.tiny_runs import TinyTask, assert_same_run, tiny_trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("storage")).fit()


@pytest.fixture
def storage(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    return tmp_path


def remove(run: Path, pattern: str) -> None:
    found = list(run.glob(pattern))
    assert found
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_finished_run_makes_its_schedule_again(storage, finished):
    before = (storage / "run/schedule.json").read_bytes()
    remove(storage / "run", "schedule.json")
    assert_same_run(tiny_trainer(storage).fit(), finished)
    assert (storage / "run/schedule.json").read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", r"the run in .*run lacks config\.json, .* use another name"),
        ("checkpoint_*", r"lacks checkpoint_0+100/manifest\.json, .* use another name"),
        ("checkpoint_*100/model.pt", r"lacks checkpoint_0+100/model\.pt"),
        ("checkpoint_*100/state.pt", r"lacks checkpoint_0+100/state\.pt"),
        ("events.jsonl", r"run holds checkpoint_\d+, but no events\.jsonl: .* Use another name"),
    ],
)
def test_a_finished_run_that_lacks_a_file_is_refused(storage, pattern, message):
    remove(storage / "run", pattern)
    before = sorted(path.name for path in (storage / "run").iterdir())
    with pytest.raises(ValueError, match=message):
        tiny_trainer(storage).fit()
    assert sorted(path.name for path in (storage / "run").iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", r"run/config\.json is damaged, or is not a run's: it is not JSON"),
        ("config.json", b"[" * 100_000, r"run/config\.json is damaged"),
        ("config.json", b"\xff", r"run/config\.json is damaged"),
        ("config.json", b'{"a": 1}', r"run: the stored settings have format None"),
        ("schedule.json", b"{", r"run/schedule\.json is damaged"),
        ("schedule.json", b"{}", r"run/schedule\.json: expected an object .* delete it, and"),
        ("events.jsonl", b"hello\n", r"line 1 of .*run/events\.jsonl is damaged"),
        ("events.jsonl", b"[1]\n", r"line 1 of .*events\.jsonl .* not an object with a kind"),
        ("events.jsonl", b'{"kind": "lanes"}\n', r"events\.jsonl is not a log that this version"),
        (
            "events.jsonl",
            b'{"kind": "lanes", "parallel_probes": 1}\n',
            "the checkpoint is of step 100, where no stage of the log begins",
        ),
    ],
)
def test_a_file_that_is_not_a_run_s_is_refused_by_its_name(storage, name, content, message):
    (storage / "run" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tiny_trainer(storage).fit()


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        (
            "config.json",
            '"seed": 0',
            '"seed": 1',
            r"run/config\.json: it does not have the checksum",
        ),
        (
            "schedule.json",
            '"last_step": ',
            '"last_step": 1',
            r"run/schedule\.json: it does not have",
        ),
        ("events.jsonl", '"steps": ', '"steps": 1', r"line \d+ of .*run/events\.jsonl is damaged"),
    ],
)
def test_a_file_with_a_number_that_was_not_written_is_refused(
    storage, name, before, after, message
):
    path = storage / "run" / name
    changed = path.read_text().replace(before, after, 1)
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(ValueError, match=message):
        tiny_trainer(storage).fit()
    if name == "schedule.json":
        with pytest.raises(ValueError, match=r"schedule\.json is not a schedule .* checksum"):
            LRSchedule.load(path)


def test_a_log_of_another_format_is_refused(storage):
    log = storage / "run/events.jsonl"
    session, lanes, *others = log.read_text().splitlines()
    record = json.loads(lanes) | {"format": "ray_autolrs.events/9"}
    del record["sha256"]
    kept = [line for line in others if '"kind": "finished"' not in line]
    log.write_text("".join(f"{line}\n" for line in [session, json.dumps(record), *kept]))
    with pytest.raises(ValueError, match=r"its format is 'ray_autolrs\.events/9', not"):
        tiny_trainer(storage).fit()


def test_a_record_that_lacks_a_value_is_refused_with_the_log_s_name(storage):
    log = storage / "run/events.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records = [record for record in records if record["kind"] != "finished"]
    probe = next(record for record in records if record["kind"] == "probe")
    del probe["training_losses"], probe["sha256"]
    log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    with pytest.raises(ValueError, match=r"events\.jsonl is not .*KeyError: 'training_losses'"):
        tiny_trainer(storage).fit()


def foreign_checkpoint(run: Path) -> None:
    (run / "checkpoint_000000020").mkdir()
    torch.save({"step": 20}, run / "checkpoint_000000020/state.pt")


def foreign_model(run: Path) -> None:
    torch.save({}, run / "model.pt")


def foreign_config(run: Path) -> None:
    (run / "config.json").write_text('{"model_type": "bert"}')


def no_json(run: Path) -> None:
    (run / "config.json").write_text("[server]")


@pytest.mark.parametrize("fill", [foreign_checkpoint, foreign_model, foreign_config, no_json])
def test_a_folder_that_was_never_a_run_s_is_refused_and_left_alone(tmp_path, fill):
    run = tmp_path / "run"
    run.mkdir()
    fill(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"run('s folder| holds)|is not a run's"):
        tiny_trainer(tmp_path).fit()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_before_its_log_began_can_begin_again(tmp_path, finished):
    (tmp_path / "run").mkdir()
    shutil.copy(Path(finished.path) / "config.json", tmp_path / "run")
    (tmp_path / "run/tokenizer.json").write_text("{}")  # as a job leaves it
    assert_same_run(tiny_trainer(tmp_path, TinyTask()).fit(), finished)
