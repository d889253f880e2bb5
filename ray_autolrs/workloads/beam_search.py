"""Beam search for translations.

Symbols
    B   source sentences
    K   hypotheses kept for each (the beam)
    V   tokens
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ray_autolrs.workloads.transformer import Transformer


def length_penalty(length: int, alpha: float) -> float:
    """Return what a hypothesis' log probability is divided by: ((5 + length) / 6)^α.

    Source: Wu et al. 2016, equation 14, as the Transformer's paper uses it.
    """
    penalty: float = ((5 + length) / 6) ** alpha
    return penalty


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    beam: int = 4,
    alpha: float = 0.6,
    extra_length: int = 50,
) -> list[list[int]]:
    """Return the best translation of each source sentence.

    Args:
        model: in eval mode.
        source: padded ids, shape (B, S), on the model's device.
        bos_id: token that a target begins behind.
        eos_id: token that ends it.
        beam: K. Source of the default and of the next two: the paper, section 6.1.
        alpha: exponent of the length penalty.
        extra_length: tokens that a translation may have more than the longest source.

    Returns:
        Ids without beginning and end; a hypothesis that has not ended in time counts as it is.
    """
    sentences, device = source.shape[0], source.device
    memory = model.encode(source).repeat_interleave(beam, dim=0)
    sources = source.repeat_interleave(beam, dim=0)
    longest = min(source.shape[1] + extra_length, model.positions.shape[0] - 1)
    tokens = torch.full((sentences * beam, 1), bos_id, device=device)
    # All hypotheses are the same at first: only the first one of each sentence counts.
    scores = torch.full((sentences, beam), float("-inf"), device=device)
    scores[:, 0] = 0.0
    best_score = torch.full((sentences,), float("-inf"), device=device)
    best: list[list[int]] = [[] for _ in range(sentences)]
    first_row = torch.arange(sentences, device=device)[:, None] * beam
    for length in range(1, longest + 1):
        features = model.decode(tokens, memory, sources)[:, -1]
        log_probabilities = log_softmax(model.logits(features).float(), dim=-1)
        vocabulary = log_probabilities.shape[-1]
        totals = scores[:, :, None] + log_probabilities.view(sentences, beam, vocabulary)
        # Twice the beam: at most K of them end, so K that go on are always among them.
        found, places = totals.flatten(1).topk(min(2 * beam, totals[0].numel()), dim=1)
        rows, chosen = places // vocabulary, places % vocabulary
        ends = chosen == eos_id
        at_last = length == longest
        complete = found / length_penalty(length, alpha)
        complete = complete.masked_fill(~(ends | at_last), float("-inf"))
        score, place = complete.max(dim=1)
        for sentence in (score > best_score).nonzero().flatten().tolist():
            best_score[sentence] = score[sentence]
            row = int(rows[sentence, place[sentence]])
            last = int(chosen[sentence, place[sentence]])
            ids = tokens[sentence * beam + row, 1:].tolist()
            best[sentence] = ids if last == eos_id else [*ids, last]
        going = found.masked_fill(ends, float("-inf"))
        scores, kept = going.topk(beam, dim=1)
        # No hypothesis can come to a better score than it would have at full length.
        bound = scores[:, 0] / length_penalty(longest, alpha)
        if bool((bound <= best_score).all()):
            break
        parents = (first_row + rows.gather(1, kept)).flatten()
        tokens = torch.cat([tokens[parents], chosen.gather(1, kept).view(-1, 1)], dim=1)
    return best
