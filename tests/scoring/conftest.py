"""eval.py for the tests of this folder."""

import pytest

from tests.running import Ended


@pytest.fixture
def evaluate(eval_py):
    """Runs eval.py in this process, with one worker by default. Returns the exit status and both outputs as text."""

    def call(*words: object) -> Ended:
        ended = eval_py("--workers", 1, *words)
        return ended._replace(err="\n".join(ended.err))

    return call
