"""The Transformer of "Attention is all you need", for translation.

Symbols
    B   sentences in a batch
    S   tokens of the longest source, padded
    T   tokens of the longest target, padded
    d   width of the model

As in the paper: layer norm after each residual addition, sinusoidal positions, one matrix for
both embeddings and for the output, embeddings scaled by √d, dropout on embeddings and on each
sub-layer's output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerSize:
    """Sizes of a model; the defaults are the paper's base model (table 3).

    Attributes:
        vocab_size: tokens, of both languages together.
        width: d.
        layers: of the encoder, and of the decoder.
        heads: of each attention; they divide ``width``.
        hidden: width inside of the feed-forward layers.
        dropout: probability.
        max_length: most tokens of a sentence.
    """

    vocab_size: int
    width: int = 512
    layers: int = 6
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    max_length: int = 512


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        size: its sizes.
        pad_id: token that is padding.
    """

    positions: Tensor

    def __init__(self, size: TransformerSize, pad_id: int) -> None:
        super().__init__()
        self._pad_id = pad_id
        self._width = size.width
        self.embedding = nn.Embedding(size.vocab_size, size.width)
        nn.init.normal_(self.embedding.weight, std=size.width**-0.5)
        self.register_buffer("positions", sinusoids(size.max_length, size.width), persistent=False)
        self.dropout = nn.Dropout(size.dropout)
        self.encoder = nn.ModuleList(_EncoderLayer(size) for _ in range(size.layers))
        self.decoder = nn.ModuleList(_DecoderLayer(size) for _ in range(size.layers))

    def forward(self, source: Tensor, shifted: Tensor) -> Tensor:
        """Return the logits of each target token given those before it.

        Args:
            source: int64, shape (B, S).
            shifted: the target behind the beginning's token, int64, shape (B, T).

        Returns:
            Shape (B, T, vocab_size).
        """
        return self.logits(self.decode(shifted, self.encode(source), source))

    def encode(self, source: Tensor) -> Tensor:
        """Return the source's features, shape (B, S, d)."""
        features = self._embed(source)
        mask = self._real(source)
        for layer in self.encoder:
            features = layer(features, mask)
        return features

    def decode(self, shifted: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Return the target's features, shape (B, T, d).

        Padding of the target stands behind its tokens, so that the causal mask hides it.
        """
        features = self._embed(shifted)
        mask = self._real(source)
        for layer in self.decoder:
            features = layer(features, memory, mask)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Return logits of shape (..., vocab_size) for features of shape (..., d)."""
        return features @ self.embedding.weight.T

    def _embed(self, ids: Tensor) -> Tensor:
        embedded = self.embedding(ids) * math.sqrt(self._width) + self.positions[: ids.shape[1]]
        dropped: Tensor = self.dropout(embedded)
        return dropped

    def _real(self, source: Tensor) -> Tensor:
        """Return which source tokens may be looked at, shape (B, 1, 1, S)."""
        return (source != self._pad_id)[:, None, None, :]


class _Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self._heads = size.heads
        self.query = _linear(size.width, size.width)
        self.key = _linear(size.width, size.width)
        self.value = _linear(size.width, size.width)
        self.output = _linear(size.width, size.width)

    def forward(self, features: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from ``features`` to ``memory``; a mask of None is the causal one."""
        attended = scaled_dot_product_attention(
            self._split(self.query(features)),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
            attn_mask=mask,
            is_causal=mask is None,
        )
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, features: Tensor) -> Tensor:
        return features.view(*features.shape[:2], self._heads, -1).transpose(1, 2)


class _Residual(nn.Module):
    """Layer norm of the sum of an input and a sub-layer's output."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.dropout = nn.Dropout(size.dropout)
        self.norm = nn.LayerNorm(size.width)

    def forward(self, features: Tensor, change: Tensor) -> Tensor:
        normed: Tensor = self.norm(features + self.dropout(change))
        return normed


class _EncoderLayer(nn.Module):
    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.attention = _Attention(size)
        self.feed_forward = _feed_forward(size)
        self.residuals = nn.ModuleList(_Residual(size) for _ in range(2))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        features = self.residuals[0](features, self.attention(features, features, mask))
        changed: Tensor = self.residuals[1](features, self.feed_forward(features))
        return changed


class _DecoderLayer(nn.Module):
    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.self_attention = _Attention(size)
        self.cross_attention = _Attention(size)
        self.feed_forward = _feed_forward(size)
        self.residuals = nn.ModuleList(_Residual(size) for _ in range(3))

    def forward(self, features: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        features = self.residuals[0](features, self.self_attention(features, features, None))
        features = self.residuals[1](features, self.cross_attention(features, memory, mask))
        changed: Tensor = self.residuals[2](features, self.feed_forward(features))
        return changed


def _feed_forward(size: TransformerSize) -> nn.Sequential:
    return nn.Sequential(
        _linear(size.width, size.hidden), nn.ReLU(), _linear(size.hidden, size.width)
    )


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with Glorot's weights and no bias at first (tensor2tensor's choice)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoids(length: int, width: int) -> Tensor:
    """Return the positions' encoding of the paper, section 3.5, shape (length, width).

    Even places hold sin(p / 10000^(i/width)), odd places the cosine of the same angle.

    >>> sinusoids(2, 2).tolist()[0]
    [0.0, 1.0]
    """
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
