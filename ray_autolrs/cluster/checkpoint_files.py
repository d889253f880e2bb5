"""A checkpoint's files: plain data with a manifest, so that damage is seen and nothing is run.

``state.pt``        all that a restart needs, as ``Snapshot.state_dict``
``model.pt``        the trained model's ``state_dict``: in the last checkpoint, and with
                    ``keep_best`` the best so far in each (within a stage: the best of its steps,
                    if that is better than all before it)
``shard-*.safetensors``  of a sharded model each worker's parts
                    (:mod:`ray_autolrs.training.shard_files`); ``state.pt`` has the rest
``manifest.json``   format, version, step, and each file's size and checksum; written last

Files are loaded with ``weights_only=True``, which builds tensors and plain values and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ray_autolrs.algorithm.field_checks import is_integer

FORMAT = "ray_autolrs.checkpoint/3"
"""What a manifest says about itself. The number rises when an old reader would fail."""

READABLE = (FORMAT, "ray_autolrs.checkpoint/2")
"""The formats that this version reads."""

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.pt"
MODEL_FILE = "model.pt"

_CHUNK_BYTES = 1 << 20
"""Written at a time. Between two chunks the threads that train get their turn."""


Entries = Mapping[str, Mapping[str, Any]]
"""Of each file, by its name: its size and its checksum."""


class DamagedCheckpointError(ValueError):
    """A checkpoint's files are not those that were written."""


class _CheckedStream:
    """What ``torch.save`` writes to: it counts and hashes what goes to a stream."""

    def __init__(self, stream: Any) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._stream = stream

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        for start in range(0, len(rest), _CHUNK_BYTES):
            chunk = rest[start : start + _CHUNK_BYTES]
            self.digest.update(chunk)
            self._stream.write(chunk)
        self.size += len(rest)
        return len(rest)

    def flush(self) -> None:
        """Do nothing: closing the stream flushes it."""


def save_tensors(content: Any, stream: Any) -> dict[str, Any]:
    """Write plain data to a stream, and return what a manifest says of the file.

    Raises:
        OSError: the storage refused it.
    """
    checked = _CheckedStream(stream)
    try:
        torch.save(content, checked)  # type: ignore[arg-type]
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides it behind one of its own.
            raise error.__context__ from None
        raise
    return {"bytes": checked.size, "sha256": checked.digest.hexdigest()}


def manifest(step: int, entries: Entries, told: Mapping[str, Any]) -> bytes:
    """Return the content of a manifest.

    Args:
        step: applied steps done; within a stage those before it.
        entries: of each file, by name: :func:`save_tensors`.
        told: what else it says.
    """
    values = {"format": FORMAT, "version": _version(), "step": step, "files": entries, **told}
    return (json.dumps(values, indent=2) + "\n").encode()


def entries_of(folder: Path) -> Entries:
    """Return what a manifest says of the files in a local folder."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }


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
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"its {MANIFEST_FILE} is not JSON") from error
    found = parsed.get("format") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or found not in READABLE:
        raise DamagedCheckpointError(
            f"its {MANIFEST_FILE} has format {str(found)[:60]!r}, and this version of ray_autolrs "
            f"reads {' and '.join(READABLE)}"
        )
    step: Any = parsed.get("step")
    files: Any = parsed.get("files")
    holds = is_integer(step) and step >= 0 and isinstance(files, dict) and STATE_FILE in files
    if not (holds and all(map(_is_entry, files.items()))):
        raise DamagedCheckpointError(f"its {MANIFEST_FILE} lacks the step or a file's checksum")
    return parsed


def check_files(folder: Path) -> dict[str, Any]:
    """Return the manifest of a local folder, after a look at every byte of its files.

    Raises:
        DamagedCheckpointError: a file is missing, or is not what was written.
    """
    path = folder / MANIFEST_FILE
    parsed = parse_manifest(path.read_bytes() if path.exists() else None)
    for name, entry in parsed["files"].items():
        file = folder / name
        if not file.is_file():
            raise DamagedCheckpointError(f"its {name} is missing")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise DamagedCheckpointError(f"its {name} has {size} bytes instead of {entry['bytes']}")
        if _sha256(file) != entry["sha256"]:
            raise DamagedCheckpointError(f"its {name} does not have the checksum of its manifest")
    return parsed


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
