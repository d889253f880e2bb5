"""TensorBoard: event files that ``tensorboard --logdir`` reads while the run goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ray_autolrs.extras import NeedsExtra
from ray_autolrs.sinks.curves import CurveSink, Scalar


class TensorBoardSink(CurveSink):
    """Writes the curves of :mod:`ray_autolrs.sinks.curves`, and the decisions as text.

    Args:
        folder: where the event files go; a continued run adds a file.

    Raises:
        ImportError: the extra ``tensorboard`` is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        with NeedsExtra("tensorboard"):
            import tensorboardX  # type: ignore[import-untyped]  # noqa: F401 - asked for early
        self._folder = os.fspath(folder)
        self._writer: Any = None

    def open(self) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(self._folder, flush_secs=5)

    def write(self, scalars: Sequence[Scalar]) -> None:
        for scalar in scalars:
            self._writer.add_scalar(scalar.name, scalar.value, scalar.step)

    def write_text(self, text: str, step: int) -> None:
        self._writer.add_text("decisions", text, step)

    def close(self) -> None:
        self._writer.close()
