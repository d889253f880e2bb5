"""The checkpoints in a run's folder: their names, how one is written, and which ones stay.

``checkpoint_STEP``        the state after so many applied steps: a stage begins there
``midstage_STEP_NUMBER``   the state within a probe or a stage that began at that step; to go on
                           from it, that stage's own checkpoint is needed too
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from ray_autolrs.cluster.checkpoint_files import (
    MANIFEST_FILE,
    DamagedCheckpointError,
    Entries,
    manifest,
    parse_manifest,
    save_tensors,
)
from ray_autolrs.cluster.run_folder import RunFolder

MIDSTAGE = "midstage_"

TEMPORARY = "checkpoint.tmp"

STAGING = "shards.tmp-"

LOSS_KEY = "validation_loss"
"""In a manifest: the validation loss at the checkpoint's step, if it was taken."""

ON_NOTICE = "on_notice"
"""In a manifest: it was stored because a process or a machine was about to go."""

_NAMES = re.compile(r"(?:checkpoint_(\d{9,})|midstage_(\d{9,})_(\d{6,}))")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A checkpoint's place in its run; they sort by their age.

    Attributes:
        step: applied steps before the stage.
        number: of one within the stage or its search, from 1; 0 is the stage's start.
    """

    step: int
    number: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        if self.number == 0:
            return f"checkpoint_{self.step:09d}"
        return f"{MIDSTAGE}{self.step:09d}_{self.number:06d}"

    @property
    def start(self) -> Place:
        """The stage's start."""
        return Place(self.step)


def place_of(name: str) -> Place | None:
    """Return the place of the checkpoint in a folder; None if this version has not written it.

    >>> place_of("midstage_000000040_000002")
    Place(step=40, number=2)
    """
    match = _NAMES.fullmatch(name)
    if match is None:
        return None
    whole, within, number = match.groups()
    return Place(int(whole)) if whole is not None else Place(int(within), int(number))


def places_to_keep(places: Iterable[Place], keep: int, best: Place | None) -> set[Place]:
    """Return the newest places, those that they need to be gone on from, and the best one.

    >>> places = [Place(0), Place(0, 1), Place(0, 2), Place(40), Place(40, 3)]
    >>> sorted(places_to_keep(places, keep=2, best=None))
    [Place(step=40, number=0), Place(step=40, number=3)]
    """
    newest = sorted(places)[-keep:]
    return {*newest, *(place.start for place in newest), *([best] if best is not None else [])}


class CheckpointStore:
    """Writes checkpoints to a run's folder, and deletes the old ones.

    Args:
        folder: the run's.
        keep: how many of the newest stay.
        keeps_best: whether the one of the lowest validation loss stays too.
    """

    def __init__(self, folder: RunFolder, *, keep: int, keeps_best: bool = False) -> None:
        self.folder = folder
        self._keep = keep
        self._keeps_best = keeps_best
        self._refused: set[str] = set()
        self._losses: dict[Place, float] | None = None

    def places(self) -> list[Place]:
        """Return the places of all that this version has written, oldest first."""
        places = map(
            place_of, [*self.folder.folders("checkpoint_"), *self.folder.folders(MIDSTAGE)]
        )
        return sorted(place for place in places if place is not None)

    def refuse(self, name: str) -> None:
        """Take note that a checkpoint is damaged, so that it does not stay in place of a good one.

        It is there until the next one is written.
        """
        self._refused.add(name)

    def last_number(self) -> int:
        """Return the highest number of a checkpoint within a stage; 0 without one."""
        return max([0, *(place.number for place in self.places())])

    def write(
        self,
        place: Place,
        files: Mapping[str, Any],
        told: Mapping[str, Any],
        staged: Entries | None = None,
    ) -> None:
        """Write a checkpoint, and delete those that are too old.

        On a local disk it is written under another name, synced and renamed: it is whole or
        absent. Elsewhere its manifest comes last: without one it counts for nothing.

        Args:
            place: which one it is.
            files: plain data, by the name of the file.
            told: what its manifest says besides.
            staged: of further files, by their paths in the place's ``staging_path``.

        Raises:
            OSError: the storage fails. What was there before stays.
        """
        if self.folder.is_local:
            self._write_locally(place, files, told, staged or {})
        else:
            path = f"{self.folder.path}/{place.name}"
            self.folder.filesystem.create_dir(path, recursive=True)
            self._write_files(path, place, files, told, staged or {})
        if staged:
            self.folder.filesystem.delete_dir(self.staging_path(place))
        self._refused.discard(place.name)
        if self._losses is not None:
            self._losses.pop(place, None)
            if LOSS_KEY in told:
                self._losses[place] = told[LOSS_KEY]
        self._delete_old()

    def staging_path(self, place: Place) -> str:
        """Return where workers put files of a checkpoint before it is written."""
        return f"{self.folder.path}/{STAGING}{place.name}"

    def delete_staged(self) -> None:
        """Delete what was left there by processes that were killed."""
        for name in self.folder.folders(STAGING):
            self.folder.filesystem.delete_dir(f"{self.folder.path}/{name}")

    def lowest_loss(self) -> float:
        """Return the lowest validation loss of the checkpoints that are there; else infinity."""
        return min(self._known_losses().values(), default=math.inf)

    def _write_locally(
        self, place: Place, files: Mapping[str, Any], told: Mapping[str, Any], staged: Entries
    ) -> None:
        run = Path(self.folder.path)
        for left in run.glob(f"{TEMPORARY}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary = run / f"{TEMPORARY}-{os.getpid()}"
        try:
            temporary.mkdir()
            self._write_files(str(temporary), place, files, told, staged)
            for path in (*temporary.iterdir(), temporary):
                _sync(path)
            target = run / place.name
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(run)

    def _write_files(
        self,
        path: str,
        place: Place,
        files: Mapping[str, Any],
        told: Mapping[str, Any],
        staged: Entries,
    ) -> None:
        entries: dict[str, Any] = {}
        filesystem, source = self.folder.filesystem, self.staging_path(place)
        for name, entry in staged.items():
            _, _, short = name.rpartition("/")
            # They stay until the checkpoint is whole: a write that fails is tried again.
            if self.folder.is_local:
                _link(Path(source) / name, Path(path) / short)
            else:
                filesystem.copy_file(f"{source}/{name}", f"{path}/{short}")
            entries[short] = entry
        for name, content in files.items():
            with self._opened(f"{path}/{name}") as stream:
                entries[name] = save_tensors(content, stream)
        with self._opened(f"{path}/{MANIFEST_FILE}") as stream:
            stream.write(manifest(place.step, entries, told))

    def _opened(self, path: str) -> Any:
        if self.folder.is_local:
            return Path(path).open("wb")
        return self.folder.filesystem.open_output_stream(path)

    def _delete_old(self) -> None:
        places = self.places()
        good = [place for place in places if place.name not in self._refused]
        losses = self._known_losses() if self._keeps_best else {}
        judged = [place for place in good if place in losses]
        best = min(judged, key=lambda place: (losses[place], place), default=None)
        kept = places_to_keep(good, self._keep, best)
        for place in places:
            if place not in kept:
                self._delete(place)

    def _delete(self, place: Place) -> None:
        path = f"{self.folder.path}/{place.name}"
        if self.folder.is_local:  # Half-deleted under its name it would look damaged.
            temporary = Path(self.folder.path) / f"{TEMPORARY}-old"
            shutil.rmtree(temporary, ignore_errors=True)
            path = str(Path(path).rename(temporary))
        self.folder.filesystem.delete_dir(path)
        if self._losses is not None:
            self._losses.pop(place, None)

    def _known_losses(self) -> dict[Place, float]:
        """Return the validation losses of the stored checkpoints that have one."""
        if self._losses is None:
            self._losses = {}
            for place in self.places():
                try:
                    told = parse_manifest(self.folder.read(f"{place.name}/{MANIFEST_FILE}"))
                except DamagedCheckpointError:
                    continue
                if isinstance(told.get(LOSS_KEY), float):
                    self._losses[place] = told[LOSS_KEY]
        return self._losses


def missing_file(folder: RunFolder, name: str, needed: str) -> str | None:
    """Return which file of a checkpoint is not there, or not whole; None if all are.

    It looks at the files' sizes, not at what they hold.

    Args:
        folder: the run's.
        name: the checkpoint's.
        needed: a file that it must have, whatever its manifest says.
    """
    try:
        files = parse_manifest(folder.read(f"{name}/{MANIFEST_FILE}"))["files"]
    except DamagedCheckpointError:
        return f"{name}/{MANIFEST_FILE}"
    for file in {needed, *files}:
        info = folder.filesystem.get_file_info(f"{folder.path}/{name}/{file}")
        if info.type == fs.FileType.NotFound or info.size != files.get(file, {}).get("bytes"):
            return f"{name}/{file}"
    return None


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the disk's format knows one name only."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
