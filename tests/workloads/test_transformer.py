"""The model against torch's own modules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.workloads.transformer import Transformer, TransformerSize, sinusoids

SIZE = TransformerSize(vocab_size=50, width=32, layers=2, heads=4, hidden=64, max_length=32)
PAD = 0


class Reference(nn.Module):
    """The same network out of torch's layers, with the weights of ours."""

    def __init__(self, ours: Transformer) -> None:
        super().__init__()
        settings: dict[str, Any] = {"dropout": SIZE.dropout, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(SIZE.width, SIZE.heads, SIZE.hidden, **settings)
        decoder = nn.TransformerDecoderLayer(SIZE.width, SIZE.heads, SIZE.hidden, **settings)
        self.encoder = nn.TransformerEncoder(encoder, SIZE.layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, SIZE.layers)
        self.embedding = ours.embedding
        for theirs, layer in zip(self.encoder.layers, ours.encoder, strict=True):
            copy_attention(theirs.self_attn, layer.attention)
            copy_rest(theirs, layer)
        for theirs, layer in zip(self.decoder.layers, ours.decoder, strict=True):
            copy_attention(theirs.self_attn, layer.self_attention)
            copy_attention(theirs.multihead_attn, layer.cross_attention)
            copy_rest(theirs, layer)

    def forward(self, source, shifted):
        def embed(ids):
            return self.embedding(ids) * math.sqrt(SIZE.width) + positions(ids.shape[1])

        is_pad = source == PAD
        memory = self.encoder(embed(source), src_key_padding_mask=is_pad)
        later = torch.ones(shifted.shape[1], shifted.shape[1]).triu(1).bool()
        features = self.decoder(
            embed(shifted), memory, tgt_mask=later, memory_key_padding_mask=is_pad
        )
        return features @ self.embedding.weight.T


def positions(length):
    """Section 3.5 of the paper, one number at a time."""
    table = torch.zeros(length, SIZE.width, dtype=torch.float64)
    for position in range(length):
        for pair in range(SIZE.width // 2):
            angle = position / 10_000 ** (2 * pair / SIZE.width)
            table[position, 2 * pair] = math.sin(angle)
            table[position, 2 * pair + 1] = math.cos(angle)
    return table


@torch.no_grad()
def copy_attention(theirs, ours):
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_rest(theirs, ours):
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    for number, residual in enumerate(ours.residuals, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(residual.norm.state_dict())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(SIZE, PAD).double().eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, 50, (5, 9), generator=generator)
    shifted = torch.randint(3, 50, (5, 7), generator=generator)
    target = torch.randint(3, 50, (5, 7), generator=generator)
    source[1, 4:] = PAD
    shifted[2, 3:] = target[2, 3:] = PAD
    return source, shifted, target


def test_loss_and_gradients_are_those_of_torchs_layers(model):
    for value in model.parameters():  # so that no bias is zero and no norm is one
        nn.init.normal_(value, mean=float(value.mean().detach()), std=0.1)
    reference = Reference(model).double().eval()
    source, shifted, target = batch()
    losses = []
    for network in (model, reference):
        network.zero_grad()
        loss = nn.functional.cross_entropy(
            network(source, shifted).flatten(0, 1),
            target.flatten(),
            ignore_index=PAD,
            label_smoothing=0.1,
        )
        loss.backward()
        gradient = model.embedding.weight.grad
        losses.append((loss.item(), gradient.clone() if gradient is not None else None))
    (ours, our_gradient), (theirs, their_gradient) = losses
    assert ours == pytest.approx(theirs, rel=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-5, atol=1e-7)


def test_positions_are_those_of_the_paper():
    torch.testing.assert_close(sinusoids(20, SIZE.width).double(), positions(20), rtol=0, atol=1e-6)


def test_padding_changes_nothing(model):
    source, shifted, _ = batch()
    wide = torch.nn.functional.pad(source, (0, 4), value=PAD)
    torch.testing.assert_close(model(wide, shifted), model(source, shifted))


def test_a_token_does_not_see_those_after_it(model):
    source, shifted, _ = batch()
    changed = shifted.clone()
    changed[:, 4] = 3
    before, after = model(source, shifted), model(source, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_base_model_has_the_papers_size():
    with torch.device("meta"):
        model = Transformer(TransformerSize(vocab_size=37_000), PAD)
    count = sum(value.numel() for value in model.parameters())
    assert count == 63_082_496  # the paper, table 3: 65 million
