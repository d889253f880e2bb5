from __future__ import annotations

import pytest

from ray_autolrs.training.averaging.average import Averaging
from tests.training.toy import AVERAGES


@pytest.fixture(params=AVERAGES)
def averaging(request: pytest.FixtureRequest) -> Averaging:
    """Every average, a user's own included."""
    return AVERAGES[request.param]
