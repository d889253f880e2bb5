"""The model that transformers builds, against torch's own modules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.workloads.translation.parallel_text import BOS_ID, EOS_ID, PAD_ID
from ray_autolrs.workloads.translation.transformer import (
    TransformerSize,
    target_logits,
    translate,
)

SIZE = TransformerSize(width=32, layers=2, heads=4, hidden=64, max_length=32)


class Reference(nn.Module):
    """The paper's network out of torch's layers, with the weights of ours."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        settings: dict[str, Any] = {"dropout": SIZE.dropout, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(SIZE.width, SIZE.heads, SIZE.hidden, **settings)
        decoder = nn.TransformerDecoderLayer(SIZE.width, SIZE.heads, SIZE.hidden, **settings)
        self.encoder = nn.TransformerEncoder(encoder, SIZE.layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, SIZE.layers)
        self.embedding = ours.model.shared
        for theirs, layer in zip(self.encoder.layers, ours.model.encoder.layers, strict=True):
            copy_layer(theirs, layer, [layer.final_layer_norm])
        for theirs, layer in zip(self.decoder.layers, ours.model.decoder.layers, strict=True):
            copy_layer(theirs, layer, [layer.encoder_attn_layer_norm, layer.final_layer_norm])
            copy_attention(theirs.multihead_attn, layer.encoder_attn)

    def forward(self, source, shifted):
        def embed(ids):
            return self.embedding(ids) * math.sqrt(SIZE.width) + positions(ids.shape[1])

        is_pad = source == PAD_ID
        memory = self.encoder(embed(source), src_key_padding_mask=is_pad)
        later = torch.ones(shifted.shape[1], shifted.shape[1]).triu(1).bool()
        features = self.decoder(
            embed(shifted), memory, tgt_mask=later, memory_key_padding_mask=is_pad
        )
        return features @ self.embedding.weight.T


def positions(length):
    """Section 3.5 of the paper, but first all sines, then all cosines."""
    rates = 10_000 ** (-torch.arange(0, SIZE.width, 2, dtype=torch.float64) / SIZE.width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@torch.no_grad()
def copy_attention(theirs, ours):
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def copy_layer(theirs, ours, further_norms):
    copy_attention(theirs.self_attn, ours.self_attn)
    theirs.linear1.load_state_dict(ours.fc1.state_dict())
    theirs.linear2.load_state_dict(ours.fc2.state_dict())
    for number, norm in enumerate([ours.self_attn_layer_norm, *further_norms], start=1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SIZE.build(50).double().eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 50, (5, 9), generator=generator)
    shifted = torch.randint(4, 50, (5, 7), generator=generator)
    source[1, 4:] = PAD_ID
    return source, shifted


def test_it_is_the_papers_network(model):
    for value in model.parameters():  # so that no bias is zero and no norm is one
        if value.requires_grad:
            nn.init.normal_(value, mean=float(value.mean().detach()), std=0.1)
    reference = Reference(model).double().eval()
    torch.testing.assert_close(
        target_logits(model, *batch()), reference(*batch()), rtol=1e-5, atol=1e-5
    )


def test_dropout_is_on_embeddings_and_sublayers_alone(model):
    config = model.config
    assert config.dropout == 0.1
    assert config.attention_dropout == config.activation_dropout == config.encoder_layerdrop == 0


def test_initial_weights_are_those_of_tensor2tensor(model):
    shared = model.model.shared.weight
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight is shared
    assert float(shared[1:].detach().std()) * math.sqrt(SIZE.width) == pytest.approx(1, rel=0.1)
    hidden = model.model.encoder.layers[0].fc1.weight
    assert float(hidden.detach().abs().max()) == pytest.approx(math.sqrt(6 / 96), rel=0.01)
    assert all(not value.any() for name, value in model.named_parameters() if "proj.bias" in name)


def test_padding_changes_nothing(model):
    source, shifted = batch()
    wide = torch.nn.functional.pad(source, (0, 4), value=PAD_ID)
    torch.testing.assert_close(
        target_logits(model, wide, shifted), target_logits(model, source, shifted)
    )


def test_a_token_does_not_see_those_after_it(model):
    source, shifted = batch()
    changed = shifted.clone()
    changed[:, 4] = 3
    before, after = target_logits(model, source, shifted), target_logits(model, source, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_base_model_has_the_papers_size():
    with torch.device("meta"):
        model = TransformerSize().build(37_000)
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == 63_082_496  # the paper, table 3: 65 million
    # transformers keeps the positions of encoder and decoder as weights that are not trained.
    assert model.num_parameters() == trained + 2 * 512 * 512


def test_a_beam_finds_a_better_translation_than_greed(model):
    torch.manual_seed(2)
    for value in model.parameters():
        if value.requires_grad:
            nn.init.normal_(value, std=0.3)
    source = batch()[0][:1]

    def score(ids):
        words = ids[1:]
        logits = target_logits(model, source, torch.tensor([ids[:-1]])).log_softmax(-1)[0]
        return float(logits[range(len(words)), words].sum().detach()) / len(words) ** 0.6

    greedy, found = (translate(model, source, beam=beam, longest=6)[0] for beam in (1, 8))
    assert found == [BOS_ID, EOS_ID]
    assert score(found) > score(greedy) + 1


def words(ids):
    return [token for token in ids if token not in (PAD_ID, BOS_ID, EOS_ID)]


def test_sentences_of_a_batch_do_not_disturb_each_other(model):
    source, _ = batch()
    together = translate(model, source, beam=3, longest=6)
    alone = [translate(model, row[row != PAD_ID][None], beam=3, longest=6)[0] for row in source]
    assert [words(ids) for ids in together] == [words(ids) for ids in alone]
