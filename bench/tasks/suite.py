"""The tasks of the leave-one-group-out bench: each with its group of kind and its LRs.

Groups are what is left out. A task's kind, not its author's use of it, puts it into a group;
batches go from 8 to 1024, and nothing here may be changed by what a run of our method said. Raise
a task's ``version`` when its model, data or optimizer changes: its cached runs are void then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bench.tasks import (
    fine_tuning,
    further_images,
    generative,
    images,
    language_models,
    sequences,
    tabular,
    translation,
    unseen,
)
from bench.tasks.catalogue import FURTHER_TASKS, LEARNING_RATES
from bench.tasks.kinds import BenchTask

Grid = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteTask:
    """A task of the bench.

    Attributes:
        group: of tasks of the same kind.
        make: builds the task.
        lrs: five learning rates (LRs) of the rivals, for the optimizer as it is.
        schedule_free_lrs: likewise of Schedule-Free, which turns the optimizer's momentum off.
        interval: the LRs that our method searches.
        version: to be raised when the task changes.
    """

    group: str
    make: Callable[[], BenchTask]
    lrs: Grid
    schedule_free_lrs: Grid
    interval: tuple[float, float]
    version: int = 1
    is_unseen: bool = False
    """Whether it was made after the default, and nothing was chosen by it."""

    @property
    def batch(self) -> int:
        """Samples in a step."""
        return self.make().global_batch_size


def _task(
    group: str,
    make: Callable[[], BenchTask],
    lrs: Grid,
    schedule_free_lrs: Grid | None = None,
    *,
    is_unseen: bool = False,
) -> SuiteTask:
    return SuiteTask(
        group=group,
        make=make,
        lrs=lrs,
        schedule_free_lrs=schedule_free_lrs or lrs,
        # Half a decade more than the rivals' grid on each side.
        interval=(lrs[0] / math.sqrt(10), lrs[-1] * math.sqrt(10)),
        is_unseen=is_unseen,
    )


def _unseen(group: str, make: Callable[[], BenchTask], lrs: Grid) -> SuiteTask:
    return _task(group, make, lrs, is_unseen=True)


def _known(group: str, name: str, make: Callable[[], BenchTask]) -> SuiteTask:
    if name in LEARNING_RATES:
        rates = LEARNING_RATES[name]
        return _task(group, make, rates.rivals, rates.schedule_free)
    return _task(group, make, FURTHER_TASKS[name][1])


_LOW = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_ADAM = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_HIGH = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_SGD = (0.01, 0.03, 0.1, 0.3, 1.0)
_LARGE_SGD = (0.03, 0.1, 0.3, 1.0, 3.0)

SUITE: Mapping[str, SuiteTask] = MappingProxyType(
    {
        "cnn": _known("images with BatchNorm", "cnn", images.ConvNet),
        "cnn256": _known("images with BatchNorm", "cnn256", images.ConvNetLargeBatch),
        "convnet_adamw": _known("images with BatchNorm", "convnet_adamw", images.ConvNetAdamW),
        "cnn1024": _task("images with BatchNorm", further_images.ConvNetVeryLargeBatch, _LARGE_SGD),
        "adadelta": _task(
            "images with BatchNorm", further_images.AdadeltaNet, (0.3, 1.0, 3.0, 10.0, 30.0)
        ),
        "mlp": _known("images without BatchNorm", "mlp", images.DenseNet),
        "rmsprop": _known("images without BatchNorm", "rmsprop", images.PlainConvNet),
        "large_batch": _known("images without BatchNorm", "large_batch", images.LargeBatch),
        "sigmoid_net": _known("images without BatchNorm", "sigmoid_net", images.SigmoidNet),
        "wrong_labels": _task("images without BatchNorm", further_images.WrongLabels, _LOW),
        "adagrad": _task("images without BatchNorm", further_images.AdagradConvNet, _HIGH),
        "muon": _task(
            "images without BatchNorm", further_images.MuonNet, (2e-3, 6e-3, 2e-2, 6e-2, 2e-1)
        ),
        "lm": _known("language models", "lm", language_models.ByteLM),
        "german_lm": _known("language models", "german_lm", language_models.GermanLM),
        "lion_lm": _task("language models", sequences.LionLM, (3e-5, *_LOW[:-1])),
        "mlm": _known("masked models", "mlm", language_models.MaskedLM),
        "masked_source": _known("masked models", "masked_source", language_models.MaskedSource),
        "masked_german": _known("masked models", "masked_german", language_models.MaskedGerman),
        "masked_help": _known("masked models", "masked_help", language_models.MaskedHelp),
        "translation": _known("translation", "translation", translation.Translation),
        "german_to_english": _task("translation", sequences.GermanToEnglish, _HIGH),
        "rnn": _known("recurrent", "rnn", language_models.CharacterRNN),
        "recurrent_lm": _known("recurrent", "recurrent_lm", language_models.RecurrentLM),
        "adding": _task("recurrent", sequences.Adding, _ADAM),
        "digits": _known("tabular and small data", "digits", images.Digits),
        "few_images": _known("tabular and small data", "few_images", images.FewImages),
        "tumours": _task("tabular and small data", tabular.Tumours, _LOW),
        "noisy_table": _task("tabular and small data", tabular.NoisyTable, _HIGH),
        "autoencoder": _known("regression and autoencoders", "autoencoder", images.Autoencoder),
        "diabetes": _task(
            "regression and autoencoders", tabular.Diabetes, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
        ),
        "friedman": _task("regression and autoencoders", tabular.Friedman, _ADAM),
        "heavy_tails": _task("regression and autoencoders", tabular.HeavyTails, _LOW),
        "vae": _task("generative", generative.VAE, _LOW),
        "diffusion": _task("generative", generative.Diffusion, _ADAM),
        "vit": _known("vision transformers", "vit", images.PatchTransformer),
        "vit128": _task("vision transformers", further_images.PatchTransformerLargeBatch, _ADAM),
        "fine_tuned_lm": _task("fine-tuning", fine_tuning.FineTunedLM, _ADAM),
        "low_rank_lm": _task("fine-tuning", fine_tuning.LowRankLM, _HIGH),
        "fine_tuned_images": _task(
            "fine-tuning", fine_tuning.FineTunedImages, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
        ),
        "digit_transformer": _unseen("vision transformers", unseen.DigitTransformer, _ADAM),
        "resnet512": _unseen("images with BatchNorm", unseen.ResidualNetBatch512, _LARGE_SGD),
        "packages": _unseen("text classifiers", unseen.Packages, (0.3, 1.0, 3.0, 10.0, 30.0)),
        "source_gru": _unseen("recurrent", unseen.SourceGRU, _ADAM),
        "large_batch_lm": _unseen("language models", unseen.LargeBatchLM, _ADAM),
        "small_table": _unseen("tabular and small data", unseen.SmallTable, _ADAM),
        "reversal": _unseen("translation", unseen.Reversal, _ADAM),
        "denoising": _unseen("regression and autoencoders", unseen.Denoising, _ADAM),
        "circuit": _unseen("regression and autoencoders", unseen.Circuit, _ADAM),
        "new_head": _unseen("fine-tuning", unseen.NewHead, _SGD),
    }
)

GROUPS = tuple(dict.fromkeys(task.group for task in SUITE.values()))
