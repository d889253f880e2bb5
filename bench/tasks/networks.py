"""The small networks of the benchmarks' tasks: milliseconds a step on one core.

They are cut down until 2300 steps take about ten seconds, and no further: each must still get
better until its last step, or its learning rate would hardly matter.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class ResidualNet(nn.Module):
    """A stem of stride 2 and residual blocks, all with batch normalisation.

    Args:
        width: channels of the stem and of the first block.
        blocks: each but the first has twice the channels at half the resolution.
        classes: number of outputs.
    """

    def __init__(self, *, width: int, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width * 2**place for place in range(blocks)]
        self.blocks = nn.Sequential(
            *(_Residual(inputs, outputs) for inputs, outputs in pairwise([width, *widths]))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, classes)."""
        features: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class Perceptron(nn.Module):
    """Two hidden layers with dropout, on flattened images."""

    def __init__(self, *, inputs: int, width: int, dropout: float, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, classes)."""
        logits: Tensor = self.layers(images)
        return logits


class TransformerStack(nn.Module):
    """Transformer layers with layer norm before each sub-layer, and one after the last.

    Args:
        width: of the model.
        layers: number of them.
        heads: of each attention.
        causal: whether a place sees only those before it.
    """

    def __init__(self, *, width: int, layers: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Layer(width, heads, causal) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (batch, places, width)."""
        normed: Tensor = self.norm(self.layers(features))
        return normed


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self._heads = heads
        self._causal = causal
        self.first_norm = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        batch, places, width = features.shape
        projected = self.projections(self.first_norm(features))
        query, key, value = projected.view(batch, places, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=self._causal)
        features = features + self.output(attended.transpose(1, 2).reshape(batch, places, width))
        changed: Tensor = features + self.feed_forward(self.second_norm(features))
        return changed


class TokenTransformer(nn.Module):
    """A Transformer over token ids, with learned positions."""

    def __init__(
        self, *, vocabulary: int, places: int, width: int, layers: int, heads: int, causal: bool
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(places, width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.stack = TransformerStack(width=width, layers=layers, heads=heads, causal=causal)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return the logits of places.

        Args:
            ids: shape (batch, places).
            chosen: the places whose logits are wanted, shape (batch, wanted); None for all.

        Returns:
            Shape (batch, wanted, vocabulary).
        """
        features = self.stack(self.tokens(ids) + self.positions[: ids.shape[1]])
        if chosen is not None:
            rows = torch.arange(len(ids), device=ids.device)[:, None]
            features = features[rows, chosen]
        logits: Tensor = self.head(features)
        return logits


class VisionTransformer(nn.Module):
    """A Transformer over the square patches of a grey image; its features' mean is classified.

    Args:
        size: pixels of the image's side.
        patch: pixels of a patch's side; it divides ``size``.
        width: of the model.
        layers: number of them.
        heads: of each attention.
        classes: number of outputs.
    """

    def __init__(
        self, *, size: int, patch: int, width: int, layers: int, heads: int, classes: int = 10
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.stack = TransformerStack(width=width, layers=layers, heads=heads, causal=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, classes)."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.stack(patches + self.positions).mean(dim=1))
        return logits


class RecurrentNet(nn.Module):
    """A recurrent network that predicts the next token.

    Args:
        kind: ``nn.LSTM`` or ``nn.GRU``.
        vocabulary: number of tokens.
        embedding: width of their embeddings.
        width: of the state.
    """

    def __init__(
        self, kind: type[nn.LSTM | nn.GRU], *, vocabulary: int, embedding: int, width: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = kind(embedding, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of each place, shape (batch, places, vocabulary)."""
        features, _ = self.recurrent(self.embedding(ids))
        logits: Tensor = self.head(features)
        return logits
