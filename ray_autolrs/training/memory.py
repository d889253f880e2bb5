"""How much memory copies of the training state take, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_autolrs.training.averaging.lent_gradients import lends_gradient
from ray_autolrs.training.averaging.lr_factors import small_twin
from ray_autolrs.training.averaging.points import local
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.replica import Replica

SPARE_FRACTION = 0.1
"""Part of a device that stays free where it is known what a step takes. Ours."""

UNKNOWN_FRACTION = 0.5
"""Part of a device that stays free before the first step, whose activations nobody knows. Ours."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a device has, in bytes.

    Attributes:
        total: its memory.
        free: what nobody uses now.
        step: the most that was in use at a time besides what is in use now; 0 if nothing was.
    """

    total: int
    free: int
    step: int

    def holds(self, needed: int, *, has_stepped: bool) -> bool:
        """Tell whether ``needed`` bytes more leave enough for the next steps.

        >>> room = Room(total=80, free=50, step=20)
        >>> [room.holds(needed, has_stepped=True) for needed in (20, 25)]
        [True, False]
        >>> [room.holds(needed, has_stepped=False) for needed in (10, 11)]
        [True, False]
        """
        fraction = SPARE_FRACTION if has_stepped else UNKNOWN_FRACTION
        spare = max(self.total * fraction, self.step + self.total * SPARE_FRACTION)
        return self.free - needed >= spare


def room_on(device: torch.device) -> Room:
    """Return what a GPU has."""
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    # What PyTorch's allocator has taken and does not use is free to it.
    free += torch.cuda.memory_reserved(device) - used
    return Room(total, free, torch.cuda.max_memory_allocated(device) - used)


def belongs_on_host(replica: Replica, held_bytes: Callable[[], int]) -> bool:
    """Tell whether a copy of the replica's state goes to host memory, as the task says.

    Args:
        replica: whose state it is.
        held_bytes: tells what the copy has on the device already.
    """
    place, device = replica.task.snapshot_place, replica.device
    if device.type != "cuda" or place != "auto":
        return place == "host"
    needed = max(0, state_bytes(replica) - held_bytes())
    return not room_on(device).holds(needed, has_stepped=bool(replica.optimizer.state))


def state_bytes(replica: Replica) -> int:
    """Return the bytes of what a snapshot copies, as it is now; of shards, this worker's."""
    state = (own for own in replica.optimizer.state.values() if isinstance(own, dict))
    module = replica.module
    tensors: list[Any] = [*module.parameters(), *module.buffers(), *replica.average.tensors]
    tensors += [value for own in state for value in own.values()]
    return tensor_bytes(tensors)


def tensor_bytes(values: Iterable[Any]) -> int:
    """Return the bytes of those values that are tensors; of a sharded one, this worker's part."""
    return sum(local(value).nbytes for value in values if isinstance(value, Tensor))


def planned_bytes(replica: Replica) -> dict[str, int]:
    """Return what a worker will hold in a stage, by what it is for; activations are not in it.

    The optimizer's state is what one step with a small parameter leaves, times the parameters, so
    that it is wrong for optimizers whose state has another shape.
    """
    model = tensor_bytes(replica.module.parameters())
    trained = tensor_bytes(p for p in replica.module.parameters() if p.requires_grad)
    kept = copies_kept(replica.average.optimizer) * trained
    average = tensor_bytes(replica.average.tensors)
    state = model + tensor_bytes(replica.module.buffers()) + kept + average
    return {
        "model": model,
        "gradients": trained,
        "optimizer and average": kept + average,
        "snapshot": state,
        "ends of probes": 2 * state,
    }


def copies_kept(optimizer: torch.optim.Optimizer) -> int:
    """Return how many copies of its parameters an optimizer keeps after a step.

    >>> copies_kept(torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]))
    2
    """
    if isinstance(optimizer, ScheduleFree):
        lends = lends_gradient(optimizer.base, optimizer.param_groups[0])
        return copies_kept(optimizer.base) + 1 - lends
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    twin = small_twin(optimizer, optimizer.param_groups[0], parameter)
    parameter.grad = torch.ones_like(parameter)
    try:
        type(twin).step(twin)
    except Exception:  # what an unknown optimizer raises is its own
        return 0
    own = twin.state[parameter]
    kept = [value for value in own.values() if isinstance(value, Tensor)]
    return sum(value.shape == parameter.shape for value in kept)


def held_text(replica: Replica) -> str:
    """Return, in words, what a worker will hold in a stage, and where its copies go."""
    planned = planned_bytes(replica)
    parts = ", ".join(f"{name} {size / 1e6:.3g}" for name, size in planned.items())
    place = "host memory" if replica.task.snapshot_place == "host" else f"{replica.device}"
    if replica.task.snapshot_place == "auto" and replica.device.type == "cuda":
        place = f"{replica.device} while there is room, else host memory"
    return (
        f"each worker will hold, in MB: {parts}; in all {sum(planned.values()) / 1e6:.3g}, besides "
        f"activations. The snapshot and the ends of probes lie in {place}"
    )
