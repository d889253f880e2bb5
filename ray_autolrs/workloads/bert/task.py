"""BERT's pre-training, masked words and next sentences, as a `TrainingTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.workloads.bert.documents import Part, documents_of, part_of
from ray_autolrs.workloads.measure import measure_test_set
from ray_autolrs.workloads.preset import TextPreset

with NeedsExtra("examples"):
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForPreTraining

    from ray_autolrs.workloads.bert.sentence_pairs import IGNORED, Sample, SentencePairs, masking


class BertPretraining(nn.Module):
    """``BertForPreTraining`` that computes the vocabulary's logits for the masked tokens alone.

    They are a seventh of the tokens, and the logits of all of them a large part of a step.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.pretraining = BertForPreTraining(config)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits of shape (masked tokens, vocabulary) and (batch, 2)."""
        outputs = self.pretraining.bert(
            input_ids=batch["input_ids"],
            token_type_ids=batch["token_type_ids"],
            attention_mask=batch["attention_mask"],
        )
        hidden = outputs.last_hidden_state[batch["labels"] != IGNORED]
        heads = self.pretraining.cls
        return heads.predictions(hidden), heads.seq_relationship(outputs.pooler_output)


@dataclass(kw_only=True)
class BertTask(TrainingTask):
    """Masked-word and next-sentence losses, added; AdamW with BERT's settings.

    Each micro-batch's loss is the mean over its own masked tokens.

    Attributes:
        tokenizer_json: the WordPiece tokenizer, as ``Tokenizer.to_str`` gives it.
        text: path of the text file on every worker, or None for Python's own text.
        max_length: tokens in a sample.
        global_batch_size: samples in an optimizer step.
        micro_batch_size: samples in a forward pass, or None for each worker's share.
        model: settings of ``BertConfig``; the vocabulary is the tokenizer's.
    """

    tokenizer_json: str
    text: str | None
    max_length: int
    global_batch_size: int
    micro_batch_size: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    max_grad_norm: float | None = 1.0
    precision: Precision = "fp32"
    loader_workers: int = 0

    def __post_init__(self) -> None:
        self._mask = masking(self.tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        """The WordPiece tokenizer."""
        return Tokenizer.from_str(self.tokenizer_json)

    def build_model(self) -> nn.Module:
        vocab_size = self.tokenizer.get_vocab_size()
        return BertPretraining(BertConfig(vocab_size=vocab_size, **self.model))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return AdamW; biases and layer norms, the only vectors, do not decay."""
        # The LR is a place-holder: the schedule sets it.
        parameters = list(model.parameters())
        groups = [
            {"params": [value for value in parameters if value.ndim > 1], "weight_decay": 0.01},
            {"params": [value for value in parameters if value.ndim == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.999), eps=1e-6)

    def train_dataset(self) -> SentencePairs:
        return self._part("train")

    def val_dataset(self) -> SentencePairs:
        return self._part("validation")

    def _part(self, part: Part) -> SentencePairs:
        return SentencePairs(
            part_of(documents_of(self.text), part), self.tokenizer, self.max_length
        )

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return dict(self._mask(list(samples)))

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        words, pairs = model(batch)
        return _word_loss(words, batch) + _pair_loss(pairs, batch)

    def metrics(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        words, pairs = model(batch)
        return {
            "mlm_loss": _word_loss(words, batch),
            "mlm_accuracy": (words.argmax(dim=1) == _masked_words(batch)).float().mean(),
            "nsp_accuracy": (pairs.argmax(dim=1) == batch["next_sentence_label"]).float().mean(),
        }

    def test(self, model: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Return the metrics on documents that neither training nor search has seen."""
        return measure_test_set(self, self._part("test"), model, device, batch_size=64)


def _masked_words(batch: Mapping[str, Tensor]) -> Tensor:
    return batch["labels"][batch["labels"] != IGNORED]


def _word_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    words = _masked_words(batch)
    # A sum, because a small batch may have no masked word at all, and the mean of none is NaN.
    return nn.functional.cross_entropy(logits, words, reduction="sum") / max(1, len(words))


def _pair_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["next_sentence_label"])


PRESETS = {
    # BERT base, on samples of 128 tokens, on which BERT trained for nine tenths of its steps:
    # batch of 256, a million steps, 10,000 of them warm-up to 1e-4 (BERT, appendix A.2). The
    # interval is ours: that LR with room on both sides.
    "base": TextPreset(
        task=partial(
            BertTask,
            max_length=128,
            global_batch_size=256,
            micro_batch_size=32,
            precision="bf16",
            loader_workers=2,
        ),
        vocab_size=30_522,
        config=AutoLRSConfig.paper(
            total_steps=1_000_000, lr=(1e-6, 1e-3), warmup=Warmup(steps=10_000, lr=1e-4)
        ),
    ),
    # For two CPU cores. All numbers ours, and the package's default search. Data takes under 5%
    # of a step, so that no processes load it (bench/NOTES.md).
    "tiny": TextPreset(
        task=partial(
            BertTask,
            max_length=64,
            global_batch_size=32,
            model={
                "hidden_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 512,
                "max_position_embeddings": 64,
            },
        ),
        vocab_size=4096,
        config=AutoLRSConfig(total_steps=2100, lr=(1e-5, 1e-2)),
    ),
}
