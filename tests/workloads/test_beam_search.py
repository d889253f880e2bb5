from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from ray_autolrs.workloads.beam_search import beam_search, length_penalty
from ray_autolrs.workloads.transformer import Transformer, TransformerSize

BOS, EOS = 0, 1
SIZE = TransformerSize(vocab_size=5, width=8, layers=1, heads=1, hidden=8, max_length=6)


def random_model(seed):
    torch.manual_seed(seed)
    model = Transformer(SIZE, pad_id=4).double().eval()
    for value in model.parameters():
        nn.init.normal_(value, std=1.0)
    return model


def score(model, source, ids, alpha):
    """Score a whole translation at once; ``ids`` end with EOS or are as long as can be."""
    with torch.no_grad():
        logits = model(source, torch.tensor([[BOS, *ids[:-1]]]))
    picked = logits.log_softmax(-1)[0, range(len(ids)), list(ids)]
    return float(picked.sum()) / length_penalty(len(ids), alpha)


def all_translations(longest):
    words = [token for token in range(SIZE.vocab_size) if token != EOS]
    for length in range(longest):
        for start in itertools.product(words, repeat=length):
            yield [*start, EOS]
    yield from map(list, itertools.product(words, repeat=longest))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_translations(seed, alpha):
    model = random_model(seed)
    source = torch.tensor([[2, 3]])
    longest = 4
    best = max(all_translations(longest), key=lambda ids: score(model, source, ids, alpha))
    (found,) = beam_search(
        model, source, bos_id=BOS, eos_id=EOS, beam=300, alpha=alpha, extra_length=2
    )
    assert found == [token for token in best if token != EOS]


def test_a_beam_of_one_is_greedy():
    model = random_model(7)
    source = torch.tensor([[2, 3, 2]])
    ids = [BOS]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(model(source, torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    (found,) = beam_search(model, source, bos_id=BOS, eos_id=EOS, beam=1, alpha=0.0, extra_length=1)
    assert found == [token for token in ids[1:] if token != EOS]


def test_sentences_of_a_batch_do_not_disturb_each_other():
    model = random_model(3)
    rows = [[2, 3, 2], [3, 4, 4], [2, 2, 4]]  # 4 is padding
    together = beam_search(
        model, torch.tensor(rows), bos_id=BOS, eos_id=EOS, beam=3, extra_length=1
    )
    alone = [
        beam_search(model, torch.tensor([row]), bos_id=BOS, eos_id=EOS, beam=3, extra_length=1)[0]
        for row in rows
    ]
    assert together == alone


def test_length_penalty_is_that_of_wu_et_al():
    assert length_penalty(1, 0.6) == 1
    assert length_penalty(7, 1.0) == 2
