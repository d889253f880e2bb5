from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.toy import ToyTask, make_worker, plain_net, points, sgd


class NoLength:
    def __len__(self) -> int:
        raise RuntimeError("not known")

    def __getitem__(self, index: int) -> Any:
        return points(30)[index]


class StepWithClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


class KeywordOnly(torch.optim.SGD):
    def step(self, closure: Any = None, *, scale: float = 1.0) -> Any:
        return super().step(closure)


def replaced(method: str, value: Any) -> ToyTask:
    """Return a task whose method returns a value, or what a function of its arguments returns."""
    task = ToyTask(plain_net)
    call = value if callable(value) and not isinstance(value, type) else lambda *_: value
    if isinstance(value, nn.Module | torch.optim.Optimizer | NoLength):
        call = lambda *_: value  # noqa: E731
    setattr(task, method, call)
    return task


def start(task: ToyTask) -> None:
    make_worker(task).check_first_loss()


def two(model: nn.Module) -> Any:
    return sgd(model), sgd(model)


@pytest.mark.parametrize(
    ("method", "value", "told"),
    [
        ("build_model", None, "returned None; it must return a torch.nn.Module"),
        ("build_model", nn.Linear, "returned type: <class 'torch.nn"),
        ("build_model", "resnet", "returned str: 'resnet'"),
        ("build_optimizer", None, "returned None; it must return one torch.optim.Optimizer"),
        ("build_optimizer", 5, "returned int: 5"),
        ("build_optimizer", torch.optim.SGD, "returned type"),
        ("build_optimizer", two, "returned tuple.*a parameter group each"),
        ("build_optimizer", lambda model: [sgd(model)], "returned list"),
        ("build_optimizer", lambda model: {"optimizer": sgd(model)}, "returned dict"),
        ("build_optimizer", lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS; .*no closure"),
        (
            "build_optimizer",
            lambda model: StepWithClosure(model.parameters(), lr=0.1),
            "returned StepWithClosure; .*whose step\\(\\) needs no closure",
        ),
        (
            "build_optimizer",
            lambda m: torch.optim.SGD([{"params": m.parameters(), "lr": "0.1"}], lr=0.1),
            "parameter group 0 lr='0.1'; it must be a number",
        ),
        ("train_dataset", None, "returned NoneType, which lacks len"),
        ("train_dataset", 5, "returned int, which lacks len"),
        ("train_dataset", "data.csv", "returned str 'data.csv', which is no dataset"),
        ("train_dataset", {"x": 1}, "returned dict .*which is no dataset"),
        ("train_dataset", NoLength(), r"returned NoLength, whose len\(\) fails: RuntimeError"),
        ("val_dataset", None, "returned NoneType"),
        ("val_dataset", "x", "returned str 'x', which is no dataset"),
        ("collate", None, "returned None; it must return the batch"),
        ("loss", None, "returned None; it must return the mean loss"),
        ("loss", 0.5, "returned float: 0.5; it must"),
        ("loss", torch.tensor(1.0), "does not depend on the model's parameters.*detach"),
        ("loss", torch.tensor(1), "returned torch.int64"),
        ("loss", torch.ones(2), r"returned shape \(2,\)"),
        ("loss", torch.ones((), device="meta"), "returned a tensor on meta; it must be on cpu"),
        ("metrics", None, "returned None; it must return a dict"),
        ("metrics", [1.0], r"returned list: \[1.0\]; it must return a dict"),
        ("metrics", {"a": None}, r"\['a'\] is None; it must be a mean"),
        ("metrics", {"a": "x"}, r"\['a'\] is 'x'"),
        ("metrics", {"a": torch.ones(2)}, r"\['a'\] has shape \(2,\)"),
        ("metrics", {"a": 1j}, r"\['a'\] has shape \(\)"),
        ("metrics", {1: 1.0}, "returned the name 1; names must be strings"),
        ("metrics", {"loss": torch.ones(())}, "returned 'loss', a name that is taken"),
    ],
)
def test_a_return_of_another_kind_is_refused_before_training(method: str, value: Any, told: str):
    with pytest.raises(ValueError, match=rf"{method}(\(\))?\W?.*{told}"):
        start(replaced(method, value))


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("metrics", {"a": 0.5, "b": torch.ones((), dtype=torch.int64)}),
        ("build_optimizer", lambda model: KeywordOnly(model.parameters(), lr=0.1)),
        ("build_optimizer", lambda model: torch.optim.SGD(model.parameters(), torch.tensor(0.1))),
        ("train_dataset", lambda: [points(30)[n] for n in range(30)]),
        ("val_dataset", lambda: tuple(points(30)[n] for n in range(30))),
    ],
)
def test_a_return_that_will_do_is_taken(method: str, value: Any):
    start(replaced(method, value))


class Metrics(ToyTask):
    names: Any

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {name: torch.tensor(float("inf")) for name in self.names[len(batch[0])]}


def test_metrics_have_the_same_names_in_each_batch():
    for other in (["b"], ["a", "b"], []):
        worker = make_worker(Metrics(plain_net, names={16: ["a"], 5: other}))
        worker.check_first_loss()
        with pytest.raises(ValueError, match=r"Metrics.metrics returned .* the same names"):
            worker.evaluation.run(worker.replica, worker.group, with_metrics=True)


def test_an_infinite_metric_is_told_as_it_is():
    worker = make_worker(Metrics(plain_net, names={16: ["a"], 5: ["a"]}))
    means = worker.evaluation.run(worker.replica, worker.group, with_metrics=True)
    assert means["a"] == float("inf")
    assert means["loss"] < 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", "1"),
        ("max_grad_norm", True),
        ("max_grad_norm", 1j),
        ("precision", ["fp16"]),
        ("precision", None),
        ("on_bad_batch", "ignore"),
        ("on_bad_batch", None),
        ("loader_workers", "2"),
        ("eval_batch_size", "8"),
        ("micro_batch_size", "8"),
        ("global_batch_size", None),
    ],
)
def test_a_setting_of_another_type_is_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=rf"ToyTask\.{name}={value!r}".replace("[", r"\[")):
        make_worker(ToyTask(**{name: value}))
