from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ray_autolrs.training.random_streams import Stream, seed_everything, stream_seed


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_a_place_gives_the_same_numbers_whatever_was_drawn_before():
    seed_everything(0, Stream.MODEL, 5, 1)
    first = draw()
    draw()
    seed_everything(0, Stream.MODEL, 5, 1)
    assert draw() == first


def test_every_place_has_a_seed_of_its_own():
    places = [
        (seed, stream, step, micro)
        for seed in range(4)
        for stream in Stream
        for step in range(50)
        for micro in range(4)
    ]
    seeds = {stream_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert stream_seed(1, Stream.DATA, 11) != stream_seed(1, Stream.DATA, 1, 1)


def test_seeds_are_the_same_on_every_machine():
    # Recorded from this code: a change of it changes every run.
    assert stream_seed(0, Stream.DATA, 3, 1) == 8686322339685082688


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_seeded_too():
    torch.cuda.init()
    seed_everything(0, Stream.MODEL, 5, 1)
    first = torch.rand(3, device="cuda")
    seed_everything(0, Stream.MODEL, 5, 1)
    assert torch.equal(torch.rand(3, device="cuda"), first)
