"""What a user brings: a model, an optimizer, data and a loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from ray_autolrs.algorithm.field_checks import is_number, plain

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Precision = Literal["fp32", "bf16", "fp16"]
OnBadBatch = Literal["raise", "skip"]
Parallelism = Literal["ddp", "fsdp2"]
SnapshotPlace = Literal["auto", "device", "host"]


class TrainingTask(ABC):
    """A training problem, without a learning-rate schedule and without a training loop.

    Subclass it, set ``global_batch_size`` and write the five abstract methods. An instance is
    pickled and sent to every worker, so keep models and data out of it: build them in the
    methods, which run on the worker.

    Example:
        >>> class Line(TrainingTask):
        ...     global_batch_size = 4
        ...     def build_model(self):
        ...         return nn.Linear(1, 1)
        ...     def build_optimizer(self, model):
        ...         return torch.optim.SGD(model.parameters(), lr=0.1)
        ...     def train_dataset(self):
        ...         return torch.utils.data.TensorDataset(torch.ones(8, 1), torch.ones(8, 1))
        ...     def val_dataset(self):
        ...         return self.train_dataset()
        ...     def loss(self, model, batch):
        ...         return nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> task = Line()
        >>> model = task.build_model()
        >>> task.loss(model, task.collate([task.train_dataset()[0]])).shape
        torch.Size([])
    """

    global_batch_size: int
    """Samples in one optimizer step, over all workers."""

    micro_batch_size: int | None = None
    """Samples in one forward pass. None gives each worker one pass for each step. A smaller
    number accumulates gradients over several passes; it divides each worker's share."""

    eval_batch_size: int | None = None
    """Samples in one forward pass of an evaluation. None takes the micro-batch."""

    max_grad_norm: float | None = None
    """Gradients are scaled down to this global 2-norm. None does not clip."""

    precision: Precision = "fp32"
    """``"bf16"`` runs model and loss under autocast; ``"fp16"`` also scales the gradients.
    ``"fp32"`` runs them as the model was built, so a float64 model stays in float64."""

    loader_workers: int = 0
    """Processes that load data, for each training worker; 0 loads in the training process."""

    on_bad_batch: OnBadBatch = "raise"
    """What is done about a step whose loss or gradient is not finite although the LR is not at
    fault, as it is not finite before that LR was used either: ``"raise"`` ends the run and names
    step, samples and tensor; ``"skip"`` leaves the step out and counts it in the record, which
    costs a copy of the state at each look at the losses. It also leaves out spikes: steps whose
    gradient has ten times the 2-norm of the median of those since the last look, which looks are
    ``AutoLRSConfig.divergence_check_steps`` apart."""

    snapshot_place: SnapshotPlace = "auto"
    """Where copies of the training state lie that probes and stages begin at: ``"device"``,
    ``"host"``, or ``"auto"``: on the device while that leaves room for steps, else in pinned host
    memory."""

    parallelism: Parallelism = "ddp"
    """``"ddp"`` keeps the whole model on each worker. ``"fsdp2"`` keeps a part of its parameters,
    gradients and optimizer state on each, as :meth:`shard` says. One worker keeps them all."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return a new model, on the CPU. It is called after the random seeds are set."""

    @abstractmethod
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return an optimizer over ``model``, which is on its device.

        The LR of the first parameter group is replaced by the schedule's; the other groups
        keep their ratio to it. No group of a nonzero ratio may stand behind a first LR of 0.
        """

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """Split the model over the workers, in place, with ``parallelism="fsdp2"``.

        The default calls PyTorch's ``fully_shard`` on each block and then on the model, with
        bfloat16 weights in the forward pass where that is the precision. Blocks are the members of
        each outermost ``ModuleList``, and those of a ``Sequential`` without one. Every parameter
        must be sharded in the end. A model of which ``build_model`` has sharded a part is taken as
        it is.

        Args:
            model: built on the CPU; what is sharded is moved to the mesh's device.
            mesh: of the workers, of one dimension.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        casts = self.precision == "bf16"
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if casts else None,
            reduce_dtype=torch.float32 if casts else None,
        )
        for part in (*_blocks(model), model):
            fully_shard(part, mesh=mesh, mp_policy=policy)

    @abstractmethod
    def train_dataset(self) -> Dataset[Any] | Iterable[Any]:
        """Return the training set, map-style: ``len()`` and indexing from 0; or a stream.

        A stream is an ``IterableDataset`` of samples, or an iterable of ready batches, such as a
        ``DataLoader``, of the samples in one forward pass of a worker. It is read in its own
        order, and anew from each call of this method. Each worker's gives its share.

        Indexing may draw random numbers (``random``, ``numpy.random``, ``torch``): they are
        seeded by step, so that every probe sees the same augmentation.
        """

    @abstractmethod
    def val_dataset(self) -> Dataset[Any] | Iterable[Any]:
        """Return the validation set, map-style; or a stream that ends, the same on each worker."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch, as a tensor of shape ()."""

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Return means over a validation batch to report beside the loss, each of shape ()."""
        return {}

    def collate(self, samples: Sequence[Any]) -> Any:
        """Join samples to a batch. The default is PyTorch's ``default_collate``."""
        return default_collate(list(samples))

    def check_settings(self) -> None:
        """Check the attributes that do not depend on the number of workers.

        Raises:
            ValueError: one is out of its range; the message names it, its value and the rule.
        """
        if not (self.eval_batch_size is None or _is_integer(self.eval_batch_size, minimum=1)):
            raise self._refusal("eval_batch_size", "must be None or an integer of at least 1")
        if not _is_integer(self.loader_workers, minimum=0):
            raise self._refusal("loader_workers", "must be an integer of at least 0")
        norm: Any = plain(self.max_grad_norm)
        is_infinite = isinstance(norm, float) and norm == math.inf  # clips nothing either
        if not (norm is None or is_infinite or (is_number(norm) and norm > 0)):
            raise self._refusal("max_grad_norm", "must be positive, or None not to clip")
        for name, choices in (
            ("precision", get_args(Precision)),
            ("on_bad_batch", get_args(OnBadBatch)),
            ("parallelism", get_args(Parallelism)),
            ("snapshot_place", get_args(SnapshotPlace)),
        ):
            value: object = getattr(self, name)
            if not (isinstance(value, str) and value in choices):
                raise self._refusal(name, f"must be one of {choices}")

    def _refusal(self, name: str, rule: str) -> ValueError:
        return ValueError(f"{type(self).__name__}.{name}={getattr(self, name)!r} {rule}")

    def resolved_micro_batch_size(self, num_workers: int) -> int:
        """Return the samples in one forward pass with ``num_workers`` workers.

        Raises:
            ValueError: the workers or the micro-batch do not divide the global batch.
        """
        name = type(self).__name__
        global_batch: Any = getattr(self, "global_batch_size", None)
        if not _is_integer(global_batch, minimum=1):
            raise ValueError(
                f"{name}.global_batch_size={global_batch!r} must be an integer of at least 1"
            )
        if global_batch % num_workers:
            above = global_batch + num_workers - global_batch % num_workers
            nearest = f"{above - num_workers} or {above}" if above > num_workers else f"{above}"
            raise ValueError(
                f"{name}.global_batch_size={global_batch} must be divisible by "
                f"num_workers={num_workers}; use {nearest}"
            )
        share: int = global_batch // num_workers
        if self.micro_batch_size is None:
            return share
        micro_batch = self.micro_batch_size
        if not _is_integer(micro_batch, minimum=1) or share % micro_batch:
            raise ValueError(
                f"{name}.micro_batch_size={micro_batch!r} must divide each worker's "
                f"share of the global batch, {global_batch} / {num_workers} = {share}"
            )
        return micro_batch


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of lists and sequences that are sharded each by itself."""
    for child in module.children():
        holds_list = any(isinstance(layer, nn.ModuleList) for layer in child.modules())
        is_member = isinstance(module, nn.ModuleList) or (
            isinstance(module, nn.Sequential) and not holds_list
        )
        # A container without a forward pass cannot be sharded, its members can.
        if not is_member or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _is_integer(value: object, *, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
