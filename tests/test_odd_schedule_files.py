"""Schedule files that somebody else sent: each is a schedule, or one clear ``ValueError``."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_autolrs import LRSchedule
from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Piecewise, WarmupCosine, WarmupStableDecay

GOOD = LRSchedule(
    (
        Segment(0, 9, 0.5, WarmupStableDecay(0, 30, 4, 10)),
        Segment(10, 19, 0.25, WarmupCosine(0, 30, 4, 2.0)),
        Segment(20, 29, 0.125, Piecewise(((0, 0.5), (25, 1.0), (40, 0.0)))),
    ),
    FoundWith(kind="ScheduleFree", momentum=0.9, power=2.0, base_momentum=0.5),
).to_dict()

HUGE = 10**400
DEEP = "[" * 100_000 + "]" * 100_000


def with_segment(**changes: Any) -> str:
    """A file of one flat segment, changed."""
    segment = {"first_step": 0, "last_step": 9, "peak_lr": 0.5, "shape": {"name": "flat"}}
    return json.dumps({**GOOD, "segments": [segment | changes]})


def shape(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "first_step": 0, **fields}


@pytest.mark.parametrize(
    "text",
    {
        "a huge LR": with_segment(peak_lr=HUGE),
        "a huge last step": with_segment(last_step=HUGE),
        "a huge decay": with_segment(
            shape=shape("warmup_stable_decay", steps=HUGE, warmup_steps=0, decay_steps=1)
        ),
        "a huge power": with_segment(
            shape=shape("warmup_cosine", steps=30, warmup_steps=9, warmup_power=HUGE)
        ),
        "a huge point": with_segment(shape={"name": "piecewise", "points": [[0, HUGE]]}),
        "5000 digits": '{"format": ' + "9" * 5000 + "}",
        "deep": DEEP,
        "deep in a segment": with_segment(shape="X").replace('"X"', DEEP),
        "fairly deep": with_segment(shape="X").replace('"X"', "[" * 300 + "]" * 300),
        "a list for a shape's name": with_segment(shape={"name": ["flat"]}),
        "pairs for a shape": with_segment(shape=[["name", "flat"]]),
        "numbers for segments": json.dumps({**GOOD, "segments": [1, 2]}),
        "an object for segments": json.dumps({**GOOD, "segments": {}}),
        "text": "hello",
        "nothing": "",
    }.values(),
)
def test_an_odd_file_is_one_clear_error(text, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"schedule\.json is not a schedule that LRSchedule.save"):
        LRSchedule.load(path)


def test_a_huge_integer_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"segments\[0\].peak_lr=1000.* must be positive"):
        LRSchedule.from_dict(json.loads(with_segment(peak_lr=HUGE)))
    values = json.loads(with_segment())
    values["segments"][0]["last_step"] = 10**5000  # more digits than Python prints
    with pytest.raises(ValueError, match=r"last_step=a number of thousands of digits must be"):
        LRSchedule.from_dict(values)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([HUGE, -HUGE, 2**53, 2**63, -1, 0, 1]),
    st.floats(),
    st.text(max_size=5),
    st.recursive(st.integers(), lambda part: st.lists(part, max_size=3), max_leaves=5),
    st.dictionaries(st.sampled_from(["name", "first_step", "x"]), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything within a value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list | tuple):
        for key, part in items:
            found += (
                places(part, (*path, key))
                if isinstance(part, dict | list | tuple)
                else [(*path, key)]
            )
    return found


PLACES = places(json.loads(json.dumps(GOOD)))


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """The good file with a few values replaced or removed, and now and then with bytes cut out."""
    values = copy.deepcopy(json.loads(json.dumps(GOOD)))
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        holder: Any = values
        try:
            for key in path[:-1]:
                holder = holder[key]
            if isinstance(holder, dict) and draw(st.booleans()):
                del holder[path[-1]]
            else:
                holder[path[-1]] = draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # An earlier change took this place away.
    content = json.dumps(values).encode()
    if draw(st.integers(0, 4)) == 0:
        start = draw(st.integers(0, len(content)))
        content = content[:start] + draw(st.binary(max_size=3)) + content[start + 2 :]
    return content


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=mutated_files())
def test_a_mutated_file_is_a_schedule_or_one_clear_error(content, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_bytes(content)
    told, schedule = "", LRSchedule.from_dict(GOOD)
    try:
        schedule = LRSchedule.load(path)
    except ValueError as error:
        told = str(error)
    if told:
        assert told.startswith(f"{path} is not a schedule that LRSchedule.save wrote: ")
        assert len(told) < 3000  # a person can read it
        return
    total = schedule.total_steps
    for step in {0, total // 3, total // 2, total - 1}:
        assert schedule.lr_at(step) >= 0
