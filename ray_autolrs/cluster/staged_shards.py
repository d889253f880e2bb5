"""The part of a checkpoint that every worker writes: its shards of a sharded model.

Rank 0 writes a checkpoint by itself. Before that all workers put their shards beside it, each into
a folder of its own, and from there they are linked into the checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from ray_autolrs.cluster.checkpoint_files import Entries, entries_of
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, Place
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.snapshot import Snapshot


def stage_shards(
    snapshot: Snapshot, group: Group, store: CheckpointStore, place: Place
) -> tuple[dict[str, Any], Entries]:
    """Write the shards of each worker's snapshot. All workers call it, and wait for each other.

    Returns:
        A copy of the rest of the state, and what a manifest says of all workers' files, by their
        names in the place's staging folder.
    """
    from ray_autolrs.training.shard_files import save_shards  # loads DTensor and more

    target = f"{store.staging_path(place)}/{group.rank}"
    with _written_to(store, target) as folder:
        rest = save_shards(snapshot.state_dict(), folder)
        mine = {f"{group.rank}/{name}": entry for name, entry in entries_of(folder).items()}
    staged = {name: entry for each in group.gather(mine) for name, entry in each.items()}
    # Its tensors are the snapshot's, which changes.
    return copy.deepcopy(rest), staged


@contextlib.contextmanager
def _written_to(store: CheckpointStore, target: str) -> Iterator[Path]:
    """Give a local folder whose files are in a folder of the run in the end."""
    filesystem = store.folder.filesystem
    filesystem.create_dir(target, recursive=True)
    if store.folder.is_local:
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="autolrs-") as path:
        yield Path(path)
        fs.copy_files(path, target, destination_filesystem=filesystem)
