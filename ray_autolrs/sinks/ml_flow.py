"""MLflow: a run on a tracking server, or in a local store."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray_autolrs.extras import NeedsExtra
from ray_autolrs.sinks.curves import CurveSink, Scalar


class MLflowSink(CurveSink):
    """Logs the curves of :mod:`ray_autolrs.sinks.curves`.

    Args:
        experiment: its name; it is made if it does not exist.
        tracking_uri: the server or the store, such as ``sqlite:///mlflow.db``; MLflow's own
            choice where None.
        run_name: of the run.
        params: logged with the run, such as the settings.

    Raises:
        ImportError: the extra ``mlflow`` is not installed.
    """

    def __init__(
        self,
        experiment: str,
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        with NeedsExtra("mlflow"):
            from mlflow import MlflowClient
        # Nothing global is set: the user's process may log to another run.
        self._client = MlflowClient(tracking_uri)
        self._experiment = experiment
        self._run_name = run_name
        self._params = dict(params or {})
        self._run_id = ""

    def open(self) -> None:
        found = self._client.get_experiment_by_name(self._experiment)
        identity = (
            found.experiment_id if found else self._client.create_experiment(self._experiment)
        )
        self._run_id = self._client.create_run(identity, run_name=self._run_name).info.run_id
        for name, value in self._params.items():
            self._client.log_param(self._run_id, name, value)

    def write(self, scalars: Sequence[Scalar]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(_allowed(s.name), s.value, now_ms, s.step) for s in scalars]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def _allowed(name: str) -> str:
    """Return a name of the characters that MLflow allows.

    >>> _allowed("lane/worker #1/seconds")
    'lane/worker _1/seconds'
    """
    return re.sub(r"[^\w\-. /:]", "_", name)
