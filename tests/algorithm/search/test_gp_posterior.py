"""The closed form against BoTorch's: a report draws from a log just what the search saw."""

from __future__ import annotations

import numpy as np
import pytest

from ray_autolrs.algorithm.search.gp_model import posterior
from ray_autolrs.algorithm.search.gp_posterior import posterior_of, standardised

AT = np.linspace(0.0, 1.0, 101)


@pytest.mark.parametrize(
    ("told", "losses", "running"),
    [
        ([0.05, 0.3, 0.6, 0.95], [2.0, 1.2, 1.0, 1.7], []),
        ([0.1, 0.5, 0.9], [1.0, 2.0, None], [0.3, 0.7]),
        ([], [], [0.3, 0.8]),
    ],
    ids=["told", "believed", "nothing told"],
)
def test_the_closed_form_is_botorch_s_posterior(told, losses, running):
    mean, std, parameters = posterior(told, losses, running, AT)
    y, _, _ = standardised(losses)
    drawn = posterior_of(parameters, told, y, running, AT)
    assert drawn[0] == pytest.approx(mean, abs=1e-6)
    assert drawn[1] == pytest.approx(std, abs=1e-4)  # BoTorch adds a jitter to the diagonal


def test_losses_come_back_from_their_standard_units():
    y, origin, unit = standardised([3.0, None, 1.0])
    assert origin + unit * y == pytest.approx([3.0, 3.0, 1.0])
    assert standardised([2.0, 2.0])[1:] == (2.0, 1.0)
