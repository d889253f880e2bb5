"""A checkpoint's files: plain data with a manifest, so that damage is seen and nothing is run.

``state.pt``        all that a restart needs, as ``Snapshot.state_dict``
``shard-*.safetensors``  of a sharded model each worker's parts
                    (:mod:`ray_autolrs.training.shard_files`); ``state.pt`` has the rest
``model.pt``        the trained model's ``state_dict``: in the last checkpoint, and with
                    ``keep_best`` the best so far in each
``manifest.json``   format, version, step, and each file's size and checksum; written last

Files are loaded with ``weights_only=True``, which builds tensors and plain values and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ray_autolrs.algorithm.field_checks import is_integer

FORMAT = "ray_autolrs.checkpoint/2"
"""What a manifest says about itself. The number rises when an old reader would fail."""

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.pt"
MODEL_FILE = "model.pt"

_CHUNK_BYTES = 1 << 24


class DamagedCheckpointError(ValueError):
    """A checkpoint's files are not those that were written."""


Entries = dict[str, dict[str, Any]]
"""Of each file by its name: its size and its checksum."""


def entries_of(folder: Path) -> Entries:
    """Return what a manifest says of the files in a folder."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }


def write_manifest(folder: Path, step: int, others: Sequence[Entries] = ()) -> None:
    """Write the manifest of the files that are in a folder.

    Args:
        folder: holds a checkpoint's files and nothing else.
        step: applied steps done.
        others: of further files, which other workers add to the checkpoint.
    """
    files = {name: entry for each in (entries_of(folder), *others) for name, entry in each.items()}
    manifest = {"format": FORMAT, "version": _version(), "step": step, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def parse_manifest(content: bytes | None) -> dict[str, Any]:
    """Return a manifest's values, checked.

    Args:
        content: of the file; None if there is none.

    Raises:
        DamagedCheckpointError: it is not a manifest of this format.
    """
    if content is None:
        raise DamagedCheckpointError(
            f"it has no {MANIFEST_FILE}: it is incomplete, or older versions of ray_autolrs or "
            "somebody else wrote it; such files can run code, so they are not loaded"
        )
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"its {MANIFEST_FILE} is not JSON") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or found != FORMAT:
        raise DamagedCheckpointError(
            f"its {MANIFEST_FILE} has format {str(found)[:60]!r}, and this version of ray_autolrs "
            f"reads {FORMAT!r}"
        )
    step: Any = manifest.get("step")
    files: Any = manifest.get("files")
    holds = is_integer(step) and step >= 0 and isinstance(files, dict) and STATE_FILE in files
    if not (holds and all(map(_is_entry, files.items()))):
        raise DamagedCheckpointError(f"its {MANIFEST_FILE} lacks the step or a file's checksum")
    return manifest


def check_files(folder: Path) -> dict[str, Any]:
    """Return the manifest of a local folder, after a look at every byte of its files.

    Raises:
        DamagedCheckpointError: a file is missing, or is not what was written.
    """
    path = folder / MANIFEST_FILE
    manifest = parse_manifest(path.read_bytes() if path.exists() else None)
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise DamagedCheckpointError(f"its {name} is missing")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise DamagedCheckpointError(f"its {name} has {size} bytes instead of {entry['bytes']}")
        if _sha256(file) != entry["sha256"]:
            raise DamagedCheckpointError(f"its {name} does not have the checksum of its manifest")
    return manifest


def load_tensors(path: Path, map_location: Any) -> Any:
    """Load a file of plain data; nothing in it is run.

    Raises:
        DamagedCheckpointError: it holds something else.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # A file of somebody else may fail in any way.
        told = str(error).strip().splitlines() or [repr(error)]
        raise DamagedCheckpointError(f"its {path.name} cannot be read: {told[0]}") from error


def load_state(folder: Path, step: int, map_location: Any) -> dict[str, Any]:
    """Load ``state.pt``, and check that it is the state of a step.

    Raises:
        DamagedCheckpointError: it is not.
    """
    state = load_tensors(folder / STATE_FILE, map_location)
    holds = isinstance(state, dict) and state.get("step") == step
    if not (holds and isinstance(state.get("best"), dict)):
        raise DamagedCheckpointError(f"its {STATE_FILE} is not the state of step {step}")
    return dict(state)


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    return (
        Path(name).name == name
        and isinstance(entry, dict)
        and is_integer(entry.get("bytes"))
        and isinstance(entry.get("sha256"), str)
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _version() -> str:
    try:
        return version("ray_autolrs")
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"
