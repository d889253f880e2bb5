"""BERT's pre-training, masked words and next sentences, as a `TrainingTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForPreTraining

from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.training.batches import to_device
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.workloads.documents import (
    Documents,
    Part,
    part_of,
    python_documents,
    read_documents,
)
from ray_autolrs.workloads.sentence_pairs import IGNORED, Masking, Sample, SentencePairs


@dataclass(frozen=True, kw_only=True, slots=True)
class BertPreset:
    """A model's size, its batches, and how to search.

    Attributes:
        model: settings of ``BertConfig`` beside the vocabulary's size.
        vocab_size: WordPieces to train.
        max_length: tokens in a sample.
        global_batch_size: samples in an optimizer step.
        micro_batch_size: samples in a forward pass, or None for each worker's share.
        precision: of the forward and backward pass.
        loader_workers: processes that load data, for each training worker.
        config: the search's settings.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int
    max_length: int
    global_batch_size: int
    micro_batch_size: int | None = None
    precision: Precision = "fp32"
    loader_workers: int
    config: AutoLRSConfig


PRESETS = {
    # BERT base, on samples of 128 tokens, on which BERT trained for nine tenths of its steps:
    # batch of 256, a million steps, 10,000 of them warm-up to 1e-4 (BERT, appendix A.2). The
    # interval is ours: that LR with room on both sides.
    "base": BertPreset(
        vocab_size=30_522,
        max_length=128,
        global_batch_size=256,
        micro_batch_size=32,
        precision="bf16",
        loader_workers=2,
        config=AutoLRSConfig.paper(
            total_steps=1_000_000,
            lr_min=1e-6,
            lr_max=1e-3,
            warmup_steps=10_000,
            warmup_lr=1e-4,
        ),
    ),
    # For two CPU cores. All numbers ours, and the package's default search.
    "tiny": BertPreset(
        model={
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 512,
            "max_position_embeddings": 64,
        },
        vocab_size=4096,
        max_length=64,
        global_batch_size=32,
        loader_workers=0,  # data takes under 5% of a step: measured, bench/NOTES.md
        config=AutoLRSConfig(
            total_steps=2100,
            lr_min=1e-5,
            lr_max=1e-2,
        ),
    ),
}


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


@dataclass
class BertTask(TrainingTask):
    """Masked-word and next-sentence losses, added; AdamW with BERT's settings.

    Each micro-batch's loss is the mean over its own masked tokens.

    Attributes:
        tokenizer_json: the WordPiece tokenizer, as ``Tokenizer.to_str`` gives it.
        text: path of the text file on every worker, or None for Python's own text.
        max_length: tokens in a sample.
        global_batch_size: samples in an optimizer step.
        micro_batch_size: samples in a forward pass, or None for each worker's share.
        model: settings of ``BertConfig``; the vocabulary's size is the tokenizer's, unless it is
            among them.
    """

    tokenizer_json: str
    text: str | None
    max_length: int
    global_batch_size: int
    micro_batch_size: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        self._masking = Masking(self.tokenizer)

    @classmethod
    def from_preset(cls, preset: BertPreset, tokenizer: Tokenizer, text: str | None) -> BertTask:
        """Return the task of a preset, on a text file or on Python's own text."""
        task = cls(
            tokenizer_json=tokenizer.to_str(),
            text=text,
            max_length=preset.max_length,
            global_batch_size=preset.global_batch_size,
            micro_batch_size=preset.micro_batch_size,
            model=dict(preset.model),
        )
        task.precision = preset.precision
        task.loader_workers = preset.loader_workers
        return task

    @property
    def tokenizer(self) -> Tokenizer:
        """The WordPiece tokenizer."""
        return Tokenizer.from_str(self.tokenizer_json)

    def build_model(self) -> nn.Module:
        sizes = {"vocab_size": self.tokenizer.get_vocab_size(), **self.model}
        return BertPretraining(BertConfig(**sizes))

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
        return self._masking(samples)

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
        seed_everything(0, Stream.EVALUATION_DATA)
        loader: DataLoader[Any] = DataLoader(
            self._part("test"), batch_size=64, collate_fn=self.collate
        )
        model.eval()
        totals: dict[str, float] = {}
        count = 0
        with torch.no_grad():
            for batch in loader:
                size = len(batch["input_ids"])
                count += size
                for name, mean in self.metrics(model, to_device(batch, device)).items():
                    totals[name] = totals.get(name, 0.0) + float(mean) * size
        return {f"test_{name}": total / count for name, total in totals.items()}


def documents_of(text: str | None) -> Documents:
    """Return the documents of a text file, or Python's own.

    Raises:
        ValueError: the file is missing or malformed.
    """
    if text is None:
        return [list(document) for document in python_documents()]
    return read_documents(Path(text))


def _masked_words(batch: Mapping[str, Tensor]) -> Tensor:
    return batch["labels"][batch["labels"] != IGNORED]


def _word_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, _masked_words(batch))


def _pair_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["next_sentence_label"])
