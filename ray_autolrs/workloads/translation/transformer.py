"""The Transformer of "Attention is all you need", as transformers builds it.

transformers calls it Marian. As in the paper: layer norm after each residual addition, ReLU,
sinusoidal positions, one matrix for both embeddings and for the output, embeddings scaled by √d,
dropout on embeddings and on each sub-layer's output.

Symbols
    B   sentences in a batch
    S   tokens of the longest source, padded
    T   tokens of the longest target, padded
    d   width of the model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ray_autolrs.extras import NeedsExtra
from ray_autolrs.workloads.translation.parallel_text import BOS_ID, EOS_ID, PAD_ID

if TYPE_CHECKING:
    from transformers import MarianMTModel


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerSize:
    """Sizes of a model; the defaults are the paper's base model (table 3).

    Attributes:
        width: d.
        layers: of the encoder, and of the decoder.
        heads: of each attention; they divide ``width``.
        hidden: width inside of the feed-forward layers.
        dropout: probability.
        max_length: most tokens of a sentence.
    """

    width: int = 512
    layers: int = 6
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    max_length: int = 512

    def build(self, vocab_size: int) -> MarianMTModel:
        """Return a model with random weights for a vocabulary, one of both languages.

        They are tensor2tensor's: by transformers' own, normal ones, 400 steps end 1.5% higher.
        """
        with NeedsExtra("examples"):
            from transformers import MarianConfig, MarianMTModel  # takes seconds

        sides: dict[str, Any] = {}
        for side in ("encoder", "decoder"):
            sides |= {
                f"{side}_layers": self.layers,
                f"{side}_attention_heads": self.heads,
                f"{side}_ffn_dim": self.hidden,
            }
        config = MarianConfig(
            vocab_size=vocab_size,
            d_model=self.width,
            dropout=self.dropout,
            max_position_embeddings=self.max_length,
            activation_function="relu",
            scale_embedding=True,
            init_std=self.width**-0.5,  # of embeddings, as in tensor2tensor
            pad_token_id=PAD_ID,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            forced_eos_token_id=None,
            decoder_start_token_id=BOS_ID,
            **sides,
        )
        model = MarianMTModel(config)
        for layer in model.model.modules():  # of which the output is not one: it is the embedding
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        return model


def target_logits(model: nn.Module, source: Tensor, shifted: Tensor) -> Tensor:
    """Return the logits of each target token given those before it.

    Args:
        model: what :meth:`TransformerSize.build` returned, possibly wrapped.
        source: int64, shape (B, S).
        shifted: the target behind the beginning's token, int64, shape (B, T). Padding stands
            behind its tokens, so that the causal mask hides it.

    Returns:
        Shape (B, T, vocab_size).
    """
    outputs = model(
        input_ids=source,
        attention_mask=source != PAD_ID,
        decoder_input_ids=shifted,
        use_cache=False,
    )
    logits: Tensor = outputs.logits
    return logits


def translate(model: Any, source: Tensor, *, beam: int, longest: int) -> list[list[int]]:
    """Return the best translation of each source sentence, by beam search.

    A hypothesis' log probability is divided by length^0.6; the paper (section 6.1) divides by
    ((5 + length) / 6)^0.6.

    Args:
        model: what :meth:`TransformerSize.build` returned, in eval mode.
        source: padded ids, shape (B, S), on the model's device.
        beam: hypotheses kept for each sentence.
        longest: most tokens of a translation.

    Returns:
        Ids with beginning, end and padding.
    """
    found: Tensor = model.generate(
        input_ids=source,
        attention_mask=source != PAD_ID,
        num_beams=beam,
        length_penalty=0.6,
        do_sample=False,
        max_new_tokens=longest,
    )
    ids: list[list[int]] = found.tolist()
    return ids
