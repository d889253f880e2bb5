"""Translation with the Transformer, as a `TrainingTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.workloads.preset import TextPreset

with NeedsExtra("examples"):
    import sacrebleu
    from tokenizers import Tokenizer

    from ray_autolrs.workloads.translation.parallel_text import (
        EOS_ID,
        PAD_ID,
        Buckets,
        Pair,
        collate_bucket,
        padded,
        read_pairs,
    )
    from ray_autolrs.workloads.translation.transformer import (
        TransformerSize,
        target_logits,
        translate,
    )

PART_NAMES = ("train", "val", "test")


@dataclass(kw_only=True)
class TranslationTask(TrainingTask):
    """Cross-entropy with label smoothing, with Adam(0.9, 0.98).

    A sample is a bucket: a batch of sentence pairs of similar length. The loss of a bucket is the
    mean over its target tokens, and that of a step the mean over its buckets, which hold nearly
    the same number of tokens.

    Attributes:
        tokenizer_json: the byte pairs, as ``Tokenizer.to_str`` gives them.
        folder: of the aligned files ``train.<language>`` and ``val.<language>``, on every worker.
        source: language to translate from, the files' ending.
        target: language to translate to.
        size: of the model.
        bucket_tokens: most tokens of a bucket, on either side.
        global_batch_size: buckets in an optimizer step, over all workers.
        max_length: tokens of the longest sentence that is trained on.
        smoothing: probability that label smoothing gives to the tokens that are not the target.
    """

    tokenizer_json: str
    folder: str
    source: str
    target: str
    size: TransformerSize
    bucket_tokens: int
    global_batch_size: int
    max_length: int
    smoothing: float = 0.1
    micro_batch_size: int | None = 1
    eval_batch_size: int | None = 1
    precision: Precision = "fp32"
    loader_workers: int = 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The byte pairs of both languages."""
        return Tokenizer.from_str(self.tokenizer_json)

    def build_model(self) -> nn.Module:
        return self.size.build(self.tokenizer.get_vocab_size())

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        # The LR is a place-holder: the schedule sets it.
        trained = [value for value in model.parameters() if value.requires_grad]  # no positions
        return torch.optim.Adam(trained, lr=1e-3, betas=(0.9, 0.98), eps=1e-9)

    def train_dataset(self) -> Buckets:
        return self._buckets("train", self.max_length)

    def val_dataset(self) -> Buckets:
        return self._buckets("val", self.max_length)

    def _buckets(self, part: Literal["train", "val"], max_length: int) -> Buckets:
        return Buckets(
            read_pairs(*part_files(self.folder, part, self.source, self.target)),
            self.tokenizer,
            bucket_tokens=self.bucket_tokens,
            max_length=max_length,
        )

    def collate(self, samples: Sequence[list[Pair]]) -> dict[str, Tensor]:
        return collate_bucket([pair for bucket in samples for pair in bucket])

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self._cross_entropy(model, batch, self.smoothing)

    def metrics(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"nll": self._cross_entropy(model, batch, 0.0)}

    def _cross_entropy(
        self, model: nn.Module, batch: Mapping[str, Tensor], smoothing: float
    ) -> Tensor:
        logits = target_logits(model, batch["source"], batch["shifted"])
        return nn.functional.cross_entropy(
            logits.flatten(0, 1),
            batch["target"].flatten(),
            ignore_index=PAD_ID,
            label_smoothing=smoothing,
        )

    def test(self, model: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Return BLEU on ``test.<language>``, with sacrebleu's standard tokenization."""
        files = part_files(self.folder, "test", self.source, self.target)
        pairs = list(read_pairs(*files))
        found = self.translate(model, [source for source, _ in pairs], device)
        bleu = sacrebleu.corpus_bleu(found, [[target for _, target in pairs]])
        return {"test_bleu": bleu.score, "test_sentences": float(len(pairs))}

    def translate(
        self, model: Any, sentences: Sequence[str], device: torch.device, beam: int = 4
    ) -> list[str]:
        """Return the translations of sentences; one longer than the model is cut at its end."""
        model.eval()
        tokenizer = self.tokenizer
        longest = self.size.max_length - 1
        encoded = [[*one.ids[: longest - 1], EOS_ID] for one in tokenizer.encode_batch(sentences)]
        order = sorted(range(len(sentences)), key=lambda place: len(encoded[place]))
        translations = [""] * len(sentences)
        for first in range(0, len(order), 32):
            places = order[first : first + 32]
            source = padded([encoded[place] for place in places]).to(device)
            # The paper's bound, section 6.1: 50 tokens more than the source.
            bound = min(source.shape[1] + 50, longest)
            found = tokenizer.decode_batch(translate(model, source, beam=beam, longest=bound))
            for place, text in zip(places, found, strict=True):
                translations[place] = text.strip()
        return translations


def part_files(folder: str, part: str, source: str, target: str) -> tuple[Path, Path]:
    """Return the aligned files of a part: ``train.en`` and ``train.de``, say."""
    return Path(folder) / f"{part}.{source}", Path(folder) / f"{part}.{target}"


def check_files(folder: str, source: str, target: str) -> None:
    """Look whether all files of all parts are there; their content is read later.

    Raises:
        ValueError: one is missing; the message names it.
    """
    for part in PART_NAMES:
        next(read_pairs(*part_files(folder, part, source, target)), None)


PRESETS = {
    # The base model of the paper, with its batches of about 25,000 tokens on either side
    # (section 5.1) in eight parts, its 37,000 byte pairs, 100,000 steps, and 4000 steps of
    # warm-up to the LR that its formula (section 5.3) has at their end. The interval is ours:
    # that LR with room on both sides.
    "base": TextPreset(
        task=partial(
            TranslationTask,
            size=TransformerSize(),
            bucket_tokens=3125,
            global_batch_size=8,
            max_length=256,
            precision="bf16",
            loader_workers=2,
        ),
        vocab_size=37_000,
        config=AutoLRSConfig.paper(
            total_steps=100_000, lr=(2e-5, 5e-3), warmup=Warmup(steps=4000, lr=7e-4)
        ),
    ),
    # For two CPU cores. All numbers ours, and the package's default search. Data takes under 5%
    # of a step, so that no processes load it (bench/NOTES.md).
    "small": TextPreset(
        task=partial(
            TranslationTask,
            size=TransformerSize(width=128, layers=2, heads=4, hidden=512, max_length=192),
            bucket_tokens=600,
            global_batch_size=2,
            max_length=100,
        ),
        vocab_size=4000,
        config=AutoLRSConfig(total_steps=1700, lr=(1e-4, 3e-2)),
    ),
}
