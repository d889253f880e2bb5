"""Nodes that Ray is about to take away: after a preemption notice, or by an autoscaler."""

from __future__ import annotations

import logging
from collections.abc import Collection

import ray

from ray_autolrs.cluster.background import Background

logger = logging.getLogger(__name__)

POLL_S = 2.0
"""A notice of a preemption comes 30 s ahead, or more."""


class DrainWatch(Background):
    """Looks whether one of some nodes is about to be taken away.

    Args:
        nodes: hex identifiers of them; without any it ends at once.
    """

    def __init__(self, nodes: Collection[str]) -> None:
        super().__init__("autolrs-drains")
        self._nodes = frozenset(nodes)
        self._draining = False

    def sees_drain(self) -> bool:
        """Return whether one of the nodes was told to go."""
        return self._draining

    def _work(self) -> None:
        while self._nodes and not self._stop.wait(POLL_S):
            going = self._nodes & draining_nodes().keys()
            if going and not self._draining:
                logger.warning("Ray drains the nodes %s: the state is stored", sorted(going))
            self._draining = bool(going)


def draining_nodes() -> dict[str, int]:
    """Return the nodes that Ray drains, with their deadlines in ms since 1970; 0 is none."""
    try:
        # Ray has no public way that needs no dashboard; its own Train looks here, too.
        found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    except Exception as error:  # A cluster that does not answer ends the run elsewhere.
        logger.debug("Ray did not tell which nodes it drains: %s", error)
        return {}
    return found
