"""From which checkpoint a run goes on: the newest that is whole, and its state on every worker."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray.train import Checkpoint

from ray_autolrs.algorithm.field_checks import is_integer
from ray_autolrs.cluster.checkpoint_files import (
    MANIFEST_FILE,
    MODEL_FILE,
    STATE_FILE,
    DamagedCheckpointError,
    check_files,
    load_state,
    load_tensors,
    parse_manifest,
)
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, place_of
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.training.begun_segment import BegunSegment, KnownSteps
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.sharding import mesh_of
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.worker import Worker

logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A checkpoint between stages in a run's folder; they sort by their age.

    Attributes:
        step: applied steps done; -1 if it has no manifest that can be read.
        name: of its folder.
    """

    step: int
    name: str


def stored_checkpoints(folder: RunFolder) -> list[Stored]:
    """Return the checkpoints between stages, whoever wrote them, oldest first."""
    found = []
    for name in folder.folders("checkpoint_"):
        try:
            step = parse_manifest(folder.read(f"{name}/{MANIFEST_FILE}"))["step"]
        except DamagedCheckpointError:
            step = -1
        found.append(Stored(step, name))
    return sorted(found)


def newest_checkpoint(folder: RunFolder) -> str:
    """Return the name of the checkpoint of the most steps."""
    return stored_checkpoints(folder)[-1].name


def load_checkpoint(worker: Worker, store: CheckpointStore) -> int | None:
    """Restore the newest checkpoint that is whole, and return its step; None if there is none.

    If one within its stage is whole too, the newest of those becomes ``worker.begun``. Rank 0
    finds them; the others read what it has found.

    Raises:
        ValueError: on every worker, if there are checkpoints and none of them can be read.
    """
    group, folder = worker.group, store.folder
    loader = _Loader(worker, store)
    name: str | None = None
    within: str | None = None
    if group.rank == 0:
        name = loader.find_start()
        within = loader.find_within() if name is not None else None
    name, within, refused = group.broadcast_object((name, within, loader.refused))
    if name is None and refused:
        raise ValueError(
            f"{folder.path} has no checkpoint that can be read ({'; '.join(refused)}); use another "
            "name for a new run, or delete these folders to train this one again from its start"
        )
    if name is None:
        return None
    if group.rank > 0 or loader.mesh is not None:
        loader.start = loader.read(name)
        loader.within = loader.read(within) if within is not None else {}
    return loader.take_over()


class _Loader:
    """Reads checkpoints for one worker.

    Attributes:
        start: the state of the stage's start.
        within: the state within it; empty without one.
        refused: what is damaged, and why.
        mesh: what the model is sharded over, if it is.
    """

    def __init__(self, worker: Worker, store: CheckpointStore) -> None:
        self.start: dict[str, Any] = {}
        self.within: dict[str, Any] = {}
        self.refused: list[str] = []
        self.mesh = mesh_of(worker.replica.module)
        self._worker = worker
        self._store = store
        self._folder = store.folder
        self._best_within = BestWeights()

    def find_start(self) -> str | None:
        """Find the newest whole checkpoint between stages, and read it; rank 0 calls it."""
        # Those without a manifest first: one of them may be the newest, and is to be named.
        newest_first = stored_checkpoints(self._folder)[::-1]
        names = [stored.name for stored in sorted(newest_first, key=lambda s: s.step >= 0)]
        for name in names:
            if self._is_read(name):
                return name
        return None

    def find_within(self) -> str | None:
        """Find the newest whole one within that stage, and read it.

        Those of other stages cannot be used: theirs has begun at a checkpoint that is damaged.
        """
        step, found = self.start["step"], None
        for place in reversed(self._store.places()):
            if place.number == 0:
                continue
            if place.step != step:
                if place.step > step:
                    self._store.refuse(place.name)
            elif found is None and self._is_read(place.name):
                found = place.name
        return found

    def read(self, name: str, *, is_checked: bool = False) -> dict[str, Any]:
        """Return the state in a checkpoint.

        Workers that share a model read it together, except where it is checked.

        Raises:
            DamagedCheckpointError: it is not what was written.
        """
        place = place_of(name)
        is_within = place is not None and place.number > 0
        stored = Checkpoint(f"{self._folder.path}/{name}", self._folder.filesystem)
        with stored.as_directory() as path:
            files = Path(path)
            if is_checked:
                manifest = check_files(files)
            else:
                manifest = parse_manifest((files / MANIFEST_FILE).read_bytes())
            step = manifest["step"] + (_done_steps(manifest) if is_within else 0)
            device = self._worker.replica.device
            state = load_state(files, step, _to(device))
            shards_are_due = any(files.glob("shard-*")) if self.mesh is None else not is_checked
            if shards_are_due:
                from ray_autolrs.training.shard_files import load_shards  # loads DTensor and more

                state = load_shards(state, files, self.mesh, device)
            if is_within:
                state["within"] = _known(state.get("within"))
            best = state["best"]
            if is_checked and best["step"] >= 0:
                held = self._best_within if is_within else self._worker.best
                held.state = load_tensors(files / MODEL_FILE, "cpu")
                held.step, held.loss = best["step"], best["loss"]
        return state

    def take_over(self) -> int:
        """Put the states that were read into the worker, and return the step."""
        worker, state = self._worker, self.start
        best = state.pop("best")
        if best["step"] >= 0:
            worker.best.step, worker.best.loss = best["step"], best["loss"]
        positions = state.pop("batches", [])
        worker.snapshot.load_state_dict(state)
        if positions:
            # Another number of workers shares a stream out anew.
            mine = positions[worker.group.rank] if len(positions) == worker.group.size else None
            worker.engine.batches.go_on_from(mine, worker.snapshot.step)
        if self.within:
            del self.within["best"]
            command, known = self.within.pop("within")
            end = Snapshot()
            end.load_state_dict(self.within)
            worker.begun = BegunSegment(command, known, end, self._best_within)
        return worker.snapshot.restore(worker.replica)

    def _is_read(self, name: str) -> bool:
        try:
            state = self.read(name, is_checked=True)
        except DamagedCheckpointError as error:
            logger.warning(
                "checkpoint %s/%s: %s; taking an older one", self._folder.path, name, error
            )
            self.refused.append(f"{name}: {error}")
            self._store.refuse(name)
            return False
        place = place_of(name)
        if place is not None and place.number > 0:
            self.within = state
        else:
            self.start = state
        return True


def _done_steps(manifest: dict[str, Any]) -> int:
    steps: Any = manifest.get("done_steps")
    if not is_integer(steps):
        raise DamagedCheckpointError(f"its {MANIFEST_FILE} does not say how many steps are done")
    return int(steps)


def _known(within: Any) -> tuple[dict[str, Any], KnownSteps]:
    """Return a command's name, and what is known of its first steps."""
    try:
        return dict(within["command"]), KnownSteps.from_plain(within["known"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError(
            f"its {STATE_FILE} does not say what it was taken within ({type(error).__name__})"
        ) from error


def _to(device: torch.device) -> Any:
    def place(storage: Any, location: str) -> Any:
        # Tensors of any GPU come to this worker's; what lived on the CPU stays there.
        return storage if location == "cpu" else storage.to(device=device)

    return place
