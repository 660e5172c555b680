"""All benchmarks of a process share one measurement of the peak, and know the size `micro`."""

import functools

import pytest

from benchmarks import models
from tests.networks import add_sizes


@pytest.fixture(scope="session", autouse=True)
def measure_peak_once():
    add_sizes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "measure_peak", functools.cache(models.measure_peak))
        yield
