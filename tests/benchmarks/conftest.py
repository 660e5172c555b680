"""All benchmarks of a process share one measurement of the peak."""

import functools

import pytest

from benchmarks import harness


@pytest.fixture(scope="session", autouse=True)
def measure_peak_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "measure_peak", functools.cache(harness.measure_peak))
        yield
