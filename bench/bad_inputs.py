"""Bad input of every kind, drawn at random: each is refused by its field's or method's name.

    python -m bench.bad_inputs --examples 10000

An input counts as well told if it is accepted and works, or if what is raised is a ``ValueError``
that names the field or method. What a user's own method raises comes through as it is: its
traceback names the method. The report counts the rest, and tells the slowest example.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ray_autolrs import (
    EMA,
    WSD,
    AutoLRSConfig,
    BoundedExponential,
    Bracket,
    Checkpoints,
    Constant,
    Cosine,
    Exponential,
    GaussianProcess,
    Lanes,
    Linear,
    Research,
    ScheduleFreeAverage,
    Stages,
    TrainingTask,
    Validation,
    Warmup,
)
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.worker import Worker

STEPS = 2


def config(**fields: Any) -> AutoLRSConfig:
    given: dict[str, Any] = {"total_steps": 1000, "lr": (1e-3, 1.0)}
    return AutoLRSConfig(**(given | fields))


PARTS: dict[Callable[..., Any], type] = {config: AutoLRSConfig} | {
    kind: kind
    for kind in (
        *(Bracket, GaussianProcess, Research, Exponential, BoundedExponential),
        *(ScheduleFreeAverage, EMA, Stages, Warmup, Validation, Lanes, Checkpoints),
        *(Constant, WSD, Linear, Cosine),
    )
}
FIELDS = [
    (build, field.name) for build, kind in PARTS.items() for field in dataclasses.fields(kind)
]


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(4), torch.ones(2))] * 16)


class Failing:
    """A dataset whose items raise, or change their shape."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def fails(*_: object) -> Any:
    raise KeyError("mine")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, 2**53]),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.floats().map(np.float32),
    st.floats(width=32).map(torch.tensor),
    st.integers(-5, 5).map(np.int64),
)
ODD = st.sampled_from(
    [
        *(
            object(),
            int,
            nn.Linear,
            Constant,
            Bracket,
            Constant(),
            WSD(),
            Bracket(),
            Stages(),
            fails,
        ),
        *(np.array([1.0, 2.0]), torch.ones(2), torch.ones(1), np.array("x"), range(3)),
        *(nn.Linear(4, 2), TensorDataset(torch.ones(3, 4)), Numbers(), iter([1])),
        DataLoader(TensorDataset(torch.ones(16, 4)), 2),
        Failing(fails),
        Failing(lambda index: (torch.ones(4 + index % 2), torch.ones(2))),
        Failing(lambda index: None),
        Failing(lambda index: (torch.full((4,), float("nan")), torch.ones(2))),
    ]
)
LEAVES = st.one_of(SCALARS, ODD)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=2),
    ),
    max_leaves=3,
)
METHODS = (
    *("build_model", "build_optimizer", "train_dataset", "val_dataset"),
    *("loss", "metrics", "collate"),
)
ATTRIBUTES = (
    *("global_batch_size", "micro_batch_size", "eval_batch_size", "max_grad_norm"),
    *("precision", "on_bad_batch"),
)


class Plain(TrainingTask):
    global_batch_size = 8

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def train_dataset(self) -> Any:
        return TensorDataset(torch.ones(16, 4), torch.ones(16, 2))

    def val_dataset(self) -> Any:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return nn.functional.mse_loss(model(batch[0]), batch[1])


@dataclass(frozen=True)
class BadInput:
    """Something of a user's that is replaced by a value."""

    name: str
    value: Any
    build: Callable[..., Any] | None = None
    raises: bool = False

    def tried(self) -> str | None:
        """Return what is wrong with how it is told, or None."""
        try:
            if self.build is not None:
                self.build(**{self.name: self.value})
            else:
                self._train()
        except Exception as error:
            return self._judged(error)
        return None

    def _train(self) -> None:
        task = Plain()
        if self.raises:
            setattr(task, self.name, fails)
        elif self.name in METHODS:
            setattr(task, self.name, lambda *_: self.value)
        else:
            setattr(task, self.name, self.value)
        worker = Worker(task, TrainingSettings(), Solo(), torch.device("cpu"))
        worker.take_snapshot(0)
        worker.check_first_loss()
        worker.run_apply(Apply(1, Segment(0, STEPS - 1, 0.01)), lambda done, loss: None)

    def _judged(self, error: Exception) -> str | None:
        if isinstance(error, ValueError) and self.name in str(error):
            return None
        frames = traceback.extract_tb(error.__traceback__)
        if frames[-1].name == "fails" and isinstance(error, KeyError):
            return None  # a user's own error
        return f"{type(error).__name__}: {str(error)[:150]}"


def bad_fields() -> st.SearchStrategy[BadInput]:
    return st.builds(
        lambda field, value: BadInput(field[1], value, field[0]), st.sampled_from(FIELDS), VALUES
    )


def bad_tasks() -> st.SearchStrategy[BadInput]:
    return st.one_of(
        st.builds(BadInput, st.sampled_from(METHODS), VALUES),
        st.builds(BadInput, st.sampled_from(ATTRIBUTES), VALUES),
        st.builds(lambda name: BadInput(name, None, raises=True), st.sampled_from(METHODS)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(try_inputs(arguments.examples))


def try_inputs(examples: int) -> str:
    """Return a line for each kind of input that was not told by name, and one that counts them."""
    found: Counter[str] = Counter()
    slowest_s, tried = 0.0, 0

    def try_one(case: BadInput) -> None:
        nonlocal slowest_s, tried
        started_s = time.perf_counter()
        fault = case.tried()
        slowest_s, tried = max(slowest_s, time.perf_counter() - started_s), tried + 1
        if fault is not None:
            part = case.build.__name__ if case.build else "task"
            found[f"{part}.{case.name}={case.value!r:.60}: {fault}"] += 1

    for strategy in (bad_fields(), bad_tasks()):
        settings(
            max_examples=examples // 2,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )(given(strategy)(try_one))()
    lines = [f"{count} × {text}" for text, count in found.most_common(50)]
    untold = found.total()
    lines.append(f"{tried} inputs, {untold} not told by name; the slowest took {slowest_s:.2f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
