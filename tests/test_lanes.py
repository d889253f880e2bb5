from __future__ import annotations

import pytest

from ray_autolrs.lanes import Lanes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": 3}, r"Lanes.kind=3 must be the name of a kind, or 'auto'"),
        ({"kind": "workers", "actors": 2}, r"Lanes.actors=2 has no effect with kind='workers'"),
        (
            {"kind": "sequential", "resources": {"CPU": 1}},
            r"Lanes.resources={'CPU': 1} has no effect with kind='sequential'; use 'actors'",
        ),
        (
            {"kind": "actors", "actors": 0},
            r"Lanes.actors=0 must be None or an integer of at le.* 1",
        ),
        ({"actors": -1}, r"Lanes.actors=-1 must be None or an integer of at least 0"),
        ({"resources": {"CPU": 0}}, r"Lanes.resources={'CPU': 0} must name positive amounts"),
        ({"resources": {}}, r"Lanes.resources={} must name positive amounts"),
    ],
)
def test_settings_that_are_wrong_or_have_no_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Lanes(**settings)


def test_settings_that_have_an_effect():
    assert Lanes() == Lanes(kind="auto", actors=None, resources=None)
    for kind in ("auto", "actors", "ones_own"):
        assert Lanes(kind=kind, actors=2, resources={"GPU": 0.5}).actors == 2
