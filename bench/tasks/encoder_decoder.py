"""The translation's network: the Transformer of "Attention is all you need", without dropout.

It stays as it is, weights at first included, because runs on file are compared with new ones.

Symbols
    B   sentences in a batch
    S   tokens of the longest source, padded
    T   tokens of the longest target, padded
    d   width of the model
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class EncoderDecoder(nn.Module):
    """One matrix for both embeddings and the output; layer norm after each residual addition.

    Args:
        vocabulary: tokens, of both languages together.
        width: d.
        layers: of the encoder, and of the decoder.
        heads: of each attention.
        hidden: width inside of the feed-forward layers.
        max_length: most tokens of a sentence.
        pad_id: token that is padding.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        max_length: int,
        pad_id: int,
    ) -> None:
        super().__init__()
        self._pad_id = pad_id
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("positions", _sinusoids(max_length, width), persistent=False)
        self.encoder = nn.ModuleList(_Layer(width, heads, hidden) for _ in range(layers))
        self.decoder = nn.ModuleList(
            _Layer(width, heads, hidden, reads_source=True) for _ in range(layers)
        )

    def forward(self, source: Tensor, shifted: Tensor) -> Tensor:
        """Return the logits of each target token given those before it.

        Padding of the target stands behind its tokens, so that the causal mask hides it.

        Args:
            source: int64, shape (B, S).
            shifted: the target behind the beginning's token, int64, shape (B, T).

        Returns:
            Shape (B, T, vocabulary).
        """
        is_real = (source != self._pad_id)[:, None, None, :]
        memory = self._embed(source)
        for layer in self.encoder:
            memory = layer(memory, mask=is_real)
        features = self._embed(shifted)
        for layer in self.decoder:
            features = layer(features, mask=None, memory=memory, memory_mask=is_real)
        return features @ self.embedding.weight.T

    def _embed(self, ids: Tensor) -> Tensor:
        scale = math.sqrt(self.embedding.embedding_dim)
        embedded: Tensor = self.embedding(ids) * scale + self.positions[: ids.shape[1]]
        return embedded


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, reads_source: bool = False) -> None:
        super().__init__()
        self.self_attention = _Attention(width, heads)
        self.source_attention = _Attention(width, heads) if reads_source else None
        self.feed_forward = nn.Sequential(_linear(width, hidden), nn.ReLU(), _linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if reads_source else 2))

    def forward(
        self,
        features: Tensor,
        *,
        mask: Tensor | None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        features = self.norms[0](features + self.self_attention(features, features, mask))
        if self.source_attention is not None:
            read = self.source_attention(features, memory, memory_mask)
            features = self.norms[1](features + read)
        changed: Tensor = self.norms[-1](features + self.feed_forward(features))
        return changed


class _Attention(nn.Module):
    """Multi-head attention; a mask of None is the causal one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = _linear(width, width)
        self.key = _linear(width, width)
        self.value = _linear(width, width)
        self.output = _linear(width, width)

    def forward(self, features: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            layer(inputs).view(*inputs.shape[:2], self._heads, -1).transpose(1, 2)
            for layer, inputs in (
                (self.query, features),
                (self.key, memory),
                (self.value, memory),
            )
        )
        attended = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with Glorot's weights and no bias at first (tensor2tensor's choice)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _sinusoids(length: int, width: int) -> Tensor:
    """Return the positions' encoding of the paper, section 3.5, shape (length, width)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
