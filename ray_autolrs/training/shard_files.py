"""The sharded tensors of a checkpoint: each worker writes its parts, any number of them reads.

The files are safetensors, written and read by ``torch.distributed.checkpoint``: they hold numbers
and where these lie in the whole tensors, and no code. In the state itself, a dict with
``SHARD_KEY`` stands for each sharded tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, empty

SHARD_KEY = "ray_autolrs.shard"
"""The key that a dict which stands for a sharded tensor has; its value is the tensor's name."""


def save_shards(state: Any, folder: Path) -> Any:
    """Write the sharded tensors of a state, and return it with dicts in their places.

    All workers that share them call it, each with a folder of its own or all with the same.

    Raises:
        ValueError: a tensor is split in another way than along its dimensions.
    """
    found: dict[str, Tensor] = {}

    def taken_out(value: DTensor, name: str) -> dict[str, Any]:
        found[name] = value.detach()
        return {
            SHARD_KEY: name,
            "shape": tuple(value.shape),
            "dtype": value.dtype,
            "dims": [_dim(placement, name) for placement in value.placements],
        }

    rest = _replaced(state, lambda value: isinstance(value, DTensor), taken_out)
    if found:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(found, storage_writer=writer)
    return rest


def load_shards(state: Any, folder: Path, mesh: DeviceMesh | None, device: torch.device) -> Any:
    """Return a state with the sharded tensors of a folder in their places.

    Args:
        state: what :func:`save_shards` returned.
        folder: holds the files of all workers that wrote it.
        mesh: what the tensors are to be split over; all its workers call it. None gives whole
            tensors.
        device: where the tensors are to be.

    Raises:
        ValueError: the state is not sharded, and the mesh is there; or they have another number
            of dimensions.
    """
    found: dict[str, Tensor] = {}

    def put_back(value: dict[str, Any], name: str) -> Tensor:
        shape, dtype, dims = value["shape"], value["dtype"], value["dims"]
        if mesh is None:
            tensor = torch.empty(shape, dtype=dtype, device=device)
        else:
            if mesh.ndim != len(dims):
                raise ValueError(
                    f"the checkpoint is of a model sharded over a mesh of {len(dims)} dimensions, "
                    f"and this one has {mesh.ndim}; shard it as before"
                )
            placements = [Replicate() if dim is None else Shard(dim) for dim in dims]
            tensor = empty(*shape, dtype=dtype, device_mesh=mesh, placements=placements)
        found[value[SHARD_KEY]] = tensor
        return tensor

    whole = _replaced(state, lambda value: isinstance(value, dict) and SHARD_KEY in value, put_back)
    if mesh is not None and not found:
        raise ValueError(
            "the checkpoint is of a model that was not sharded, and this one is; continue it with "
            "the parallelism and the kind of workers that it was begun with"
        )
    if found:
        with warnings.catch_warnings():
            # One process reads all by itself, as it should.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            reader = HuggingFaceStorageReader(str(folder))
            load(found, storage_reader=reader, no_dist=mesh is None)
    return whole


def _dim(placement: Any, name: str) -> int | None:
    """Return the dimension that a tensor is split along; None if each worker has it all."""
    if type(placement) not in (Shard, Replicate):
        raise ValueError(
            f"{name} is placed as {placement}; checkpoints hold tensors that are split along a "
            "dimension, or whole"
        )
    return placement.dim if isinstance(placement, Shard) else None


def _replaced(
    value: Any,
    is_wanted: Callable[[Any], bool],
    replacement: Callable[[Any, str], Any],
    at: str = "",
) -> Any:
    """Return nested dicts, lists and tuples with each wanted part replaced.

    ``replacement`` is told the part's path.
    """
    if is_wanted(value):
        return replacement(value, at)
    if isinstance(value, dict):
        return {
            key: _replaced(v, is_wanted, replacement, f"{at}/{key}") for key, v in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(
            _replaced(part, is_wanted, replacement, f"{at}/{number}")
            for number, part in enumerate(value)
        )
    return value
