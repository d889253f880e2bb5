"""What a task's methods may return; anything else is refused by the method's name.

Each refusal is a ``ValueError`` that names the method, what it returned, the rule and, where there
is one, the remedy.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ray_autolrs.task import TrainingTask


def checked_model(task: TrainingTask) -> nn.Module:
    """Return the model that a task builds."""
    model: Any = task.build_model()
    if not isinstance(model, nn.Module):
        raise _refusal(task, "build_model", model, "it must return a torch.nn.Module")
    return model


def checked_optimizer(task: TrainingTask, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a task builds over its model."""
    optimizer: Any = task.build_optimizer(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _refusal(
            task,
            "build_optimizer",
            optimizer,
            "it must return one torch.optim.Optimizer; give several kinds of parameters a "
            "parameter group each, or wrap their optimizers in one",
        )
    if _needs_closure(optimizer):
        raise _refusal(
            task,
            "build_optimizer",
            optimizer,
            "which evaluates the loss several times in a step; use an optimizer whose step() "
            "needs no closure",
        )
    for place, group in enumerate(optimizer.param_groups):
        lr = group.get("lr")
        if not (lr.numel() == 1 if isinstance(lr, Tensor) else isinstance(lr, Real)):
            raise ValueError(
                f"{type(task).__name__}.build_optimizer gave parameter group {place} lr={lr!r}; it "
                "must be a number or a tensor of one"
            )
    return optimizer


def dataset_size(dataset: Dataset[Any], name: str) -> int:
    """Return the number of samples in a dataset of a task.

    Args:
        dataset: what the method returned.
        name: the method.

    Raises:
        ValueError: the dataset is not map-style.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise ValueError(
            f"{name}() returned a {kind}; it must return the dataset itself, because batches are "
            "addressed by their step: return loader.dataset, set the task's global_batch_size, "
            "collate and loader_workers, and put a sampler's choice into the dataset "
            "(torch.utils.data.Subset repeats and leaves out samples by their indices)"
        )
    has_both = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    is_data = not isinstance(dataset, (str, bytes, Mapping, type))
    if not (has_both and is_data) or isinstance(dataset, IterableDataset):
        lacks = "is read in its own order" if has_both and is_data else "lacks len() or indexing"
        raise ValueError(
            f"{name}() returned {kind}{'' if is_data else f' {dataset!r:.80}'}, which "
            f"{lacks if is_data else 'is no dataset'}; it must return a map-style dataset, "
            "because batches are addressed by their step: read a stream into a list, or write it "
            "to files that can be indexed"
        )
    try:
        size = len(cast("Sized", dataset))
    except Exception as error:
        raise ValueError(
            f"{name}() returned {kind}, whose len() fails: {error!r}; it must return a map-style "
            "dataset, because batches are addressed by their step"
        ) from error
    return size


def checked_batch(task: TrainingTask, batch: Any) -> Any:
    """Return what a task's ``collate`` returned."""
    if batch is None:
        raise _refusal(task, "collate", batch, "it must return the batch that loss() is given")
    return batch


def checked_loss(
    task: TrainingTask, loss: Any, device: torch.device, *, has_gradient: bool
) -> Tensor:
    """Return what a task's ``loss`` returned.

    Args:
        task: the task.
        loss: what it returned.
        device: the model's.
        has_gradient: whether the forward pass kept its graph.
    """
    rule = "it must return the mean loss, a floating-point tensor of shape ()"
    if not isinstance(loss, Tensor):
        raise _refusal(task, "loss", loss, rule)
    if loss.ndim != 0:
        raise ValueError(f"{_name(task)}.loss returned shape {tuple(loss.shape)}; {rule}")
    if not loss.is_floating_point():
        raise ValueError(f"{_name(task)}.loss returned {loss.dtype}; {rule}")
    if loss.device.type != device.type:
        raise ValueError(
            f"{_name(task)}.loss returned a tensor on {loss.device}; it must be on {device}, the "
            "model's device"
        )
    if has_gradient and not loss.requires_grad:
        raise ValueError(
            f"{_name(task)}.loss returned a tensor that does not depend on the model's parameters; "
            "compute it from model(...), without detach(), item() or torch.no_grad(), and leave "
            "some parameters unfrozen"
        )
    return loss


def checked_metrics(task: TrainingTask, metrics: Any) -> dict[str, Tensor]:
    """Return what a task's ``metrics`` returned, as tensors of shape ()."""
    name = f"{_name(task)}.metrics"
    if not isinstance(metrics, Mapping):
        raise _refusal(task, "metrics", metrics, 'it must return a dict, such as {"accuracy": ...}')
    if "loss" in metrics:
        raise ValueError(f"{name} returned 'loss', a name that is taken; rename it")
    tensors: dict[str, Tensor] = {}
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise ValueError(f"{name} returned the name {key!r}; names must be strings")
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            tensor = None
        if tensor is None or tensor.ndim != 0 or tensor.is_complex():
            got = f"is {value!r:.80}" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise ValueError(f"{name}[{key!r}] {got}; it must be a mean, a real number of shape ()")
        tensors[key] = tensor
    return tensors


@contextmanager
def told_by_name(task: TrainingTask, methods: str) -> Iterator[None]:
    """Let an error that a task's methods cause on their first batch tell which they are.

    Args:
        task: the task.
        methods: what runs, in words that name the methods.

    Raises:
        ValueError: caused by an error of the methods; one that says more, or tells that memory
            is short, comes through as it is.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        name = _name(task)
        if isinstance(error, ValueError) and f"{name}." in str(error):
            raise
        raise ValueError(
            f"{name}: {methods} failed: {type(error).__name__}: {error}; the traceback above tells "
            "where"
        ) from error


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    if isinstance(optimizer, torch.optim.LBFGS):
        return True
    try:
        parameters = inspect.signature(optimizer.step).parameters.values()
    except (TypeError, ValueError):  # it cannot be looked into
        return False
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in named for p in parameters)


def _name(task: TrainingTask) -> str:
    return type(task).__name__


def _refusal(task: TrainingTask, method: str, value: Any, rule: str) -> ValueError:
    shown = " ".join(repr(value).split())
    got = "None" if value is None else f"{type(value).__name__}: {shown:.80}"
    if isinstance(value, torch.optim.Optimizer):
        got = type(value).__name__
    return ValueError(f"{_name(task)}.{method} returned {got}; {rule}")
