from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.bad_inputs import METHODS, BadInput, bad_fields, bad_tasks

LONGEST_S = 20.0
"""Ours: an example takes milliseconds; the cores of a test machine may be shared."""


@given(st.one_of(bad_fields(), bad_tasks()))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore")
def test_bad_input_is_told_by_its_name(case: BadInput):
    started_s = time.perf_counter()
    assert case.tried() is None
    assert time.perf_counter() - started_s < LONGEST_S


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_raises_comes_through_or_is_told_by_its_name(method: str):
    assert BadInput(method, None, raises=True).tried() is None
