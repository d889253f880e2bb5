"""Nobody's file runs code, and a damaged one is named: whole runs in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cluster.tiny_runs import (
    TinyTask,
    assert_same_run,
    checkpoints,
    read_lines,
    step_of,
    tiny_trainer,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("storage")).fit()


@pytest.fixture(scope="module")
def broken_storage(tmp_path_factory):
    """A run that an error has ended in its last stage; to be copied."""
    storage = tmp_path_factory.mktemp("broken")
    with pytest.raises(OSError, match="the power is gone"):
        tiny_trainer(storage, TinyTask(breaks_after=130)).fit()
    return storage


@pytest.fixture
def storage(broken_storage, tmp_path):
    shutil.copytree(broken_storage / "run", tmp_path / "run")
    return tmp_path


class Harmful:
    """Unpickling it makes a marker file: harmless, and proof that code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def sign(checkpoint: Path) -> None:
    """Make the manifest agree with the files, as somebody who means harm would."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    path.write_text(json.dumps(manifest))


def test_a_run_that_broke_goes_on_from_its_newest_checkpoint(storage, undisturbed):
    steps = [step_of(checkpoint) for checkpoint in checkpoints(storage)]
    assert len(steps) == 2
    assert 0 < steps[0] < steps[1] < 100
    result = tiny_trainer(storage).fit()
    ready = [event["step"] for event in result.events if event["kind"] == "ready"]
    assert ready == [0, steps[1]]
    assert_same_run(result, undisturbed)
    assert step_of(result.checkpoint.path) == 100


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("file", "damage", "why"),
    [
        ("state.pt", cut, "its state.pt has 100 bytes instead of"),
        ("state.pt", flip, "its state.pt does not have the checksum of its manifest"),
        ("state.pt", Path.unlink, "its state.pt is missing"),
        ("model.pt", flip, "its model.pt does not have the checksum"),
        ("manifest.json", cut, "its manifest.json is not JSON"),
        ("manifest.json", empty, "its manifest.json is not JSON"),
        ("manifest.json", Path.unlink, "it has no manifest.json: it is incomplete, or older"),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(
    storage, undisturbed, caplog, file, damage, why
):
    older, newest = checkpoints(storage)
    damage(newest / file)
    step = step_of(older)
    result = tiny_trainer(storage).fit()
    assert f"{newest}: {why}" in caplog.text
    ready = [event["step"] for event in result.events if event["kind"] == "ready"]
    assert ready == [0, step]
    assert_same_run(result, undisturbed)


def test_without_a_whole_checkpoint_all_are_named(storage):
    older, newest = checkpoints(storage)
    cut(older / "state.pt")
    flip(newest / "model.pt")
    with pytest.raises(ValueError, match=rf"{newest.name}: its model.*; {older.name}: its state"):
        tiny_trainer(storage).fit()


@pytest.mark.parametrize("file", ["state.pt", "model.pt"])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("place", ["whole", "within"])
def test_a_foreign_pickle_is_never_loaded(storage, caplog, file, is_signed, place):
    marker = storage / "code-ran"
    for checkpoint in checkpoints(storage):
        harmful: Any = Harmful(marker)
        if place == "within":
            harmful = torch.load(checkpoint / file) | {"more": [Harmful(marker)]}
        torch.save(harmful, checkpoint / file)
        if is_signed:
            sign(checkpoint)
    with pytest.raises(ValueError, match=rf"no checkpoint that can be read .*{file}"):
        tiny_trainer(storage).fit()
    assert not marker.exists()


def test_files_of_older_versions_get_a_clear_word(storage):
    for checkpoint in checkpoints(storage):
        (checkpoint / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"older versions of ray_autolrs .* are not loaded"):
        tiny_trainer(storage).fit()


def test_a_checkpoint_of_another_format_is_refused_by_its_name(storage, caplog):
    _, newest = checkpoints(storage)
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(manifest | {"format": "other/9"}))
    tiny_trainer(storage).fit()
    assert "has format 'other/9', and this version of ray_autolrs reads" in caplog.text


def test_every_file_is_plain_data(undisturbed):
    folder = Path(undisturbed.checkpoint.path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "ray_autolrs.checkpoint/3"
    assert set(manifest["files"]) == {"state.pt", "model.pt"}
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == manifest["step"] == 100
    TinyTask().build_model().load_state_dict(torch.load(folder / "model.pt"))
    assert not list(Path(undisturbed.path).glob("*.tmp*"))


class Memo:
    """A value of one's own."""


class Remembers(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"memo": Memo()}

    def set_extra_state(self, state: Any) -> None:
        assert isinstance(state["memo"], Memo)


class Remembering(TinyTask):
    def build_model(self) -> nn.Module:
        return nn.Sequential(Remembers(4, 2))


def test_extra_state_of_one_s_own_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"get_extra_state\(\) of the module '0'\['memo'\] is"):
        tiny_trainer(tmp_path, Remembering()).fit()
    kinds = [json.loads(line)["kind"] for line in read_lines(tmp_path / "run")]
    assert "probe" not in kinds


def test_extra_state_of_a_registered_type_is_stored(tmp_path):
    with torch.serialization.safe_globals([Memo]):
        result = tiny_trainer(tmp_path, Remembering()).fit()
        state = torch.load(f"{result.checkpoint.path}/state.pt", weights_only=True)
    assert isinstance(state["extra"]["0"]["memo"], Memo)
