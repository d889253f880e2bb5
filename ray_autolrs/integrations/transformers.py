"""What a ``transformers.Trainer`` user already has, as a `TrainingTask`.

Those who stay with ``Trainer`` need nothing of this: a found schedule plugs in by
``Trainer(optimizers=(optimizer, schedule.scheduler(optimizer)))``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ray_autolrs.extras import NeedsExtra
from ray_autolrs.task import TrainingTask

with NeedsExtra("transformers"):
    from transformers import EvalPrediction, Trainer, TrainingArguments
    from transformers.data.data_collator import default_data_collator
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_optimizer import is_optimizer_factory
    from transformers.trainer_pt_utils import LabelSmoother
    from transformers.utils.generic import find_labels

REFUSED = {
    "deepspeed": "train with the plain optimizer",
    "fsdp": "the model must fit on each worker",
    "torch_compile": "compile the model in model_init",
    "neftune_noise_alpha": "add the noise in the model",
}
"""Arguments that change the training and are not carried over, and what to do instead."""


class TransformersTask(TrainingTask):
    """A Hugging Face model, its ``TrainingArguments`` and its data sets.

    Taken from the arguments: the batch sizes and gradient accumulation, the optimizer with its
    settings and its groups with and without weight decay, clipping, ``bf16`` and ``fp16``, label
    smoothing, gradient checkpointing, the loader's processes, and whether columns that the model
    does not take are dropped. Not taken: the LR, its schedule and warm-up, the number of steps or
    epochs and the seed, which are ``AutoLRSConfig``'s, and what concerns logging and saving.

    The loss is the mean of the micro-batches' means. With gradient accumulation ``Trainer``
    differs: it weights micro-batches by their number of labels where the model takes that number,
    and (transformers 5.23) adds them up where a model, say a sequence classifier, ignores it.

    Args:
        model_init: returns a new model; it is pickled, as ``Trainer`` does not ask it to be.
        args: the arguments.
        train_dataset: map-style, or a function that returns such a set and that runs on the
            worker, so that large data is not pickled.
        eval_dataset: likewise.
        data_collator: joins samples to a dict of tensors; None takes transformers' default.
        compute_metrics: as ``Trainer``'s, but called on each evaluation batch: the results are
            averaged over the batches, weighted by their samples. That is exact for means, such as
            accuracy, and not for others, such as F1.
        num_workers: workers that will train: as with ``Trainer``, the global batch is
            ``per_device_train_batch_size * gradient_accumulation_steps * num_workers``.

    Raises:
        ValueError: an argument is not carried over; the message says what to do instead.
    """

    def __init__(
        self,
        model_init: Callable[[], nn.Module],
        args: TrainingArguments,
        train_dataset: Dataset[Any] | Callable[[], Dataset[Any]],
        eval_dataset: Dataset[Any] | Callable[[], Dataset[Any]],
        data_collator: Callable[[list[Any]], Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        *,
        num_workers: int = 1,
    ) -> None:
        for name, remedy in REFUSED.items():
            if getattr(args, name, None):
                raise ValueError(
                    f"TrainingArguments.{name}={getattr(args, name)!r} is not carried over; "
                    f"leave it unset: {remedy}"
                )
        per_pass = args.per_device_train_batch_size
        self.global_batch_size = per_pass * args.gradient_accumulation_steps * num_workers
        self.micro_batch_size = per_pass
        self.eval_batch_size = args.per_device_eval_batch_size
        self.max_grad_norm = args.max_grad_norm or None
        self.precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
        self.loader_workers = args.dataloader_num_workers
        self._model_init = model_init
        self._args = args
        self._train_dataset = train_dataset
        self._eval_dataset = eval_dataset
        self._data_collator = data_collator or default_data_collator
        self._compute_metrics = compute_metrics
        self._columns: frozenset[str] | None = None
        self._label_names: list[str] = []
        smoothing = float(args.label_smoothing_factor)
        self._smoother = LabelSmoother(epsilon=smoothing) if smoothing else None

    def build_model(self) -> nn.Module:
        model = self._model_init()
        if self._args.gradient_checkpointing:
            cast("Any", model).gradient_checkpointing_enable(
                self._args.gradient_checkpointing_kwargs
            )
        bare = _bare(model)
        self._label_names = self._args.label_names or find_labels(type(bare))  # type: ignore[no-untyped-call]
        if self._args.remove_unused_columns:
            accepted = inspect.signature(bare.forward).parameters
            if _takes_by_name(bare):
                self._columns = frozenset({*accepted, "label", "label_ids", *self._label_names})
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer that ``Trainer.create_optimizer`` would build.

        Raises:
            ValueError: ``args.optim`` is one that needs more than groups of parameters.
        """
        # A method of Trainer that does not use its instance; building one would cost a model.
        decayed = {*Trainer.get_decay_parameter_names(cast("Any", None), model)}
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        groups = [
            {
                "params": [value for name, value in trained if name in decayed],
                "weight_decay": self._args.weight_decay,
            },
            {
                "params": [value for name, value in trained if name not in decayed],
                "weight_decay": 0.0,
            },
        ]
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(
            self._args, cast("Any", model)
        )
        special = {"params", "model", "optimizer_dict"} & set(settings)
        if special or is_optimizer_factory(optimizer_class):
            raise ValueError(
                f"TrainingArguments.optim={self._args.optim!r} is not carried over; use an "
                "optimizer that is built from groups of parameters, such as 'adamw_torch'"
            )
        return cast("torch.optim.Optimizer", optimizer_class(groups, **settings))

    def train_dataset(self) -> Dataset[Any]:
        return _dataset(self._train_dataset)

    def val_dataset(self) -> Dataset[Any]:
        return _dataset(self._eval_dataset)

    def collate(self, samples: Sequence[Any]) -> Any:
        """Drop the columns that the model does not take, and join the samples.

        The columns are known once :meth:`build_model` has run, which a worker does first.
        """
        columns = self._columns
        kept = [
            {key: value for key, value in sample.items() if key in columns}
            if columns is not None and isinstance(sample, Mapping)
            else sample
            for sample in samples
        ]
        return self._data_collator(kept)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs = dict(batch)
        if self._smoother is None or "labels" not in inputs:
            outputs = model(**inputs)
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
            if loss is None:
                raise ValueError(
                    f"the model returned no loss for the inputs {sorted(inputs)}; the batch must "
                    f"hold the labels {self._label_names}"
                )
            return cast("Tensor", loss)
        labels = inputs.pop("labels")
        shifted = type(_bare(model)).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        smoothed = self._smoother(model(**inputs), labels, shift_labels=shifted)
        return cast("Tensor", smoothed)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if self._compute_metrics is None:
            return {}
        outputs = model(**batch)
        if isinstance(outputs, dict):
            config = getattr(_bare(model), "config", None)
            ignored = {"loss", *(getattr(config, "keys_to_ignore_at_inference", None) or ())}
            predictions = [value for key, value in outputs.items() if key not in ignored]
        else:
            predictions = list(outputs[1:])
        labels = [batch[name] for name in self._label_names if name in batch]
        means = self._compute_metrics(
            EvalPrediction(predictions=_arrays(predictions), label_ids=_arrays(labels))
        )
        # In float64, as compute_metrics returns Python numbers.
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in means.items()}


def _dataset(given: Dataset[Any] | Callable[[], Dataset[Any]]) -> Dataset[Any]:
    # A class is a function too; an instance of Dataset is not one, and a list neither.
    is_dataset = hasattr(given, "__getitem__") and not isinstance(given, type)
    return cast("Dataset[Any]", given if is_dataset or not callable(given) else given())


def _bare(model: nn.Module) -> nn.Module:
    """Return the user's own model, out of wrappers: data-parallel, compiled, or with adapters."""
    adapted = getattr(model, "get_base_model", None)  # what peft's models have
    inner = adapted() if callable(adapted) else getattr(model, "_orig_mod", None)  # compiled
    if inner is None and not _takes_by_name(model):
        inner = getattr(model, "module", None)
    return _bare(inner) if isinstance(inner, nn.Module) and inner is not model else model


def _takes_by_name(model: nn.Module) -> bool:
    """Return whether a forward pass tells what it takes, beyond ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _arrays(values: list[Any]) -> Any:
    """Return NumPy arrays as ``EvalPrediction`` has them: one bare, several in a tuple."""
    arrays = tuple(_array(value) for value in values)
    return arrays[0] if len(arrays) == 1 else arrays


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(value, (list, tuple)):
        return tuple(_array(part) for part in value)
    return np.asarray(value)
