"""How many threads and processes work by default."""

import os

import pytest

from sam2unet.runtime.parallel import count_cores, default_workers


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot restrict a process to a core")
def test_a_job_with_one_core_of_a_machine_uses_one():
    cores = os.sched_getaffinity(0)
    assert count_cores() == len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert count_cores() == default_workers() == 1
    finally:
        os.sched_setaffinity(0, cores)
