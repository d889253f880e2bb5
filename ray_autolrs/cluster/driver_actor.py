"""Actors that hold no CPU and live where the driver does."""

from __future__ import annotations

import uuid
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST_CALLERS = 256
"""Calls that such an actor answers at the same time: its lanes, and a few more."""


def start_beside_driver(actor_class: type, name: str, *arguments: Any) -> ActorHandle[Any]:
    """Start an actor on the driver's node, whose disk the run's folder may be on.

    It holds no CPU, and answers many lanes at the same time: most of them wait in it.
    """
    node_id = ray.get_runtime_context().get_node_id()
    handle: Any = (
        ray.remote(actor_class)
        .options(
            name=f"autolrs-{name}-{uuid.uuid4().hex[:8]}",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=MOST_CALLERS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(*arguments)
    )
    return cast("ActorHandle[Any]", handle)
