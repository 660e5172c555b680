"""eval.py for the tests of this folder, and a report of made-up results."""

from pathlib import Path

import numpy as np
import pytest

from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.compare import compare
from sam2unet.scoring.report.page import write_report
from tests.conftest import save
from tests.running import Ended
from tests.scoring.made_up import COLUMNS, COUNT, HOSTILE, made_up


@pytest.fixture
def evaluate(eval_py):
    """Runs eval.py in this process, with one worker by default. Returns the exit status and both outputs as text."""

    def call(*words: object) -> Ended:
        ended = eval_py("--workers", 1, *words)
        return ended._replace(err="\n".join(ended.err))

    return call


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> list[MethodResult]:
    """Two data sets, two methods; a name that is an attack, a missing prediction, an undefined score."""
    folder = tmp_path_factory.mktemp("pairs")
    first = made_up(folder, "Camo & <i>co</i>", COUNT, ["ours", "theirs <b>"], with_photographs=True)
    for result in first:
        result.images[5] = HOSTILE
    first[1].predictions[7] = None
    first[1].per_image["MAE"][7] = first[1].per_image["IoU_05"][7] = np.nan
    return first + made_up(folder, "Plain", 3, ["ours", "theirs <b>"], with_photographs=False)


@pytest.fixture(scope="session")
def page(results, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(results, path, COLUMNS, differences=compare(results, COLUMNS), command="python eval.py 'a b' <i>")
    return path


@pytest.fixture
def sets(tmp_path):
    """Two data sets, A and B, of smooth blobs, with a good and a bad method's maps."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :50]
    for dataset, count in (("A", 6), ("B", 4)):
        for index in range(count):
            y, x = rng.uniform(12, 28), rng.uniform(15, 35)
            distance = np.hypot(rows - y, columns - x)
            save(tmp_path / dataset / f"masks/{index}.png", np.where(distance < 9, 255, 0).astype(np.uint8))
            for method, noise in (("good", 10), ("bad", 90)):
                grey = 255 / (1 + np.exp(distance - 9)) + rng.normal(0, noise, distance.shape)
                save(tmp_path / dataset / method / f"{index}.png", grey.clip(0, 255).astype(np.uint8))
    return tmp_path
