"""Images scored per second, on the same files: the work of the released script, and eval.py.

Each row of each round runs in a process of its own. The fastest of --rounds counts. Not timed: imports, compiling and
one warm-up image. Timed: decoding the files and starting the pool of processes. The rows name the library of the pixel
kernels and the number of processes. --classes compares with torchmetrics instead, which reads its files with the same
code: for IoU, Dice, accuracy and mean accuracy of the data set, or for IoU alone.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import harness
from sam2unet.classes import IGNORED, Classes
from sam2unet.data.pairs import match
from sam2unet.data.reading import read_indices, read_mask
from sam2unet.errors import UserError
from sam2unet.scoring.classes.score_folders import count_pair
from sam2unet.scoring.pixels import kernels, weighted_f
from sam2unet.scoring.score_folders import pool_map
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, read_prediction, score_job

CORES = os.cpu_count() or 1
PACKAGES = ("pysodmetrics", "numpy", "opencv-python-headless", "numba")
ROWS = ("released", *(f"{name} {n}" for name in ("numpy", "numba") for n in (1, CORES)))
CLASS_ROWS = ("torchmetrics", "torchmetrics IoU", "classes 1", f"classes {CORES}")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--pred_path", type=Path, required=True, help="folder of maps; they are resized to each of --sizes")
    p.add_argument("--gt_path", type=Path, required=True, help="folder of the masks, with the same names")
    p.add_argument("--classes", type=Path, metavar="FILE", help="YAML file with classes; the sizes stay")
    p.add_argument("--sizes", nargs="+", default=["737x984", "300x400"], metavar="HxW")
    p.add_argument("--pairs", type=int, default=60, help="number of pairs; default: 60")
    p.add_argument("--rounds", type=int, default=3, help="default: 3")
    p.set_defaults(rows=ROWS)


def run(args: argparse.Namespace) -> Iterator[str]:
    sizes = [parse_size(text) for text in args.sizes]
    yield f"{harness.name_device(torch.device('cpu'))}, {CORES} cores; {harness.describe_versions(PACKAGES)}"
    if args.classes:
        args.rows, columns = CLASS_ROWS, {"images/s": ("rate", "#.3g"), "ratio": ("rate", "ratio")}
        yield harness.measure_rows(args, "evaluation of classes", measure_classes, columns)[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        for text, size in zip(args.sizes, sizes, strict=True):
            write_resized_pairs(args.pred_path, args.gt_path, Path(folder, text), size, args.pairs)
            title, measure = f"images/s at {text}", partial(measure_scoring, Path(folder, text))
            columns = {title: ("rate", "#.3g"), "ratio": ("rate", "ratio")}
            yield harness.measure_rows(args, f"evaluation: {title}", measure, columns)[0]


def parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise UserError(f"size {text} is not of the form HEIGHTxWIDTH") from None
    return height, width


def write_resized_pairs(maps: Path, masks: Path, folder: Path, size: tuple[int, int], count: int) -> None:
    pairs = match(maps, masks)
    for kind in ("maps", "masks"):
        (folder / kind).mkdir(parents=True)
    for pair in pairs[:: max(1, len(pairs) // count)][:count]:
        arrays = {"maps": read_prediction(pair.image), "masks": np.asarray(read_mask(pair.mask))}
        for kind, array in arrays.items():
            if (array.shape[0] > array.shape[1]) != (size[0] > size[1]):
                array = array.T  # keeps portrait and landscape apart
            method = cv2.INTER_LINEAR if kind == "maps" else cv2.INTER_NEAREST
            resized = cv2.resize(np.ascontiguousarray(array), size[::-1], interpolation=method)
            cv2.imwrite(str(folder / kind / f"{pair.mask.stem}.png"), resized)


def measure_classes(args: argparse.Namespace, row: str) -> harness.Measurement:
    """`row` is `torchmetrics`, or `classes` and the number of processes."""
    multiprocessing.set_start_method("fork", force=True)
    library, *words = row.split()
    classes, pairs = Classes.read(args.classes), match(args.pred_path, args.gt_path)[: args.pairs]
    score, count = (count_pair, int(words[0])) if library == "classes" else (build_torchmetrics(classes, words), 1)
    jobs = [ScoreJob(pair.image, pair.mask, ScoreOptions(classes)) for pair in pairs]
    return {"rate": measure_rate(score, jobs, count)}


def build_torchmetrics(classes: Classes, names: Sequence[str]) -> Callable[[ScoreJob], None]:
    """Returns a function that feeds a pair to the metrics `names`; to all four if there are none."""
    import torchmetrics.classification as library
    from torchmetrics import MetricCollection

    kinds = {"IoU": ("JaccardIndex", "none"), "Dice": ("F1Score", "none")}
    kinds |= {"accuracy": ("Accuracy", "micro"), "mean accuracy": ("Accuracy", "macro")}
    options = {"num_classes": len(classes.items), "ignore_index": IGNORED}
    chosen = {name: kinds[name] for name in names or kinds}
    metrics = MetricCollection(
        {n: getattr(library, f"Multiclass{k}")(average=a, **options) for n, (k, a) in chosen.items()}
    )

    def score(job: ScoreJob) -> None:
        metrics.update(*(torch.from_numpy(read_indices(path, classes)) for path in (job.prediction, job.mask)))

    return score


def measure_scoring(folder: Path, args: argparse.Namespace, row: str) -> harness.Measurement:
    """`row` is `released`, or the kernels and the number of processes, for example `numpy 2`."""
    library, *workers = row.split()
    if workers:
        importlib.import_module(library)  # numba may be missing
    multiprocessing.set_start_method("fork", force=True)  # the pool of processes has the same kernels
    if library == "numpy":
        weighted_f.kernels = kernels
    score, count = (score_job, int(workers[0])) if workers else (build_released_scorer(), 1)
    jobs = [ScoreJob(pair.image, pair.mask, ScoreOptions()) for pair in match(folder / "maps", folder / "masks")]
    return {"rate": measure_rate(score, jobs, count)}


def measure_rate(score: Callable[[ScoreJob], object], jobs: list[ScoreJob], processes: int) -> float:
    """Returns pairs per second."""
    score(jobs[0])

    def score_all() -> None:
        with pool_map(processes) as map_jobs:
            list(map_jobs(score, jobs))

    return len(jobs) / harness.time_call(score_all, torch.device("cpu"))[0]


def build_released_scorer() -> Callable[[ScoreJob], None]:
    """Returns a function that feeds a pair to the six metric objects of the released script. One has 33 handlers."""
    import py_sod_metrics as library

    warnings.simplefilter("ignore")
    kinds = ["Precision", "Recall", "FPR", "IOU", "DICE", "Specificity", "BER", "OverallAccuracy", "Kappa"]
    settings = (
        dict(with_adaptive=True, with_dynamic=True),
        dict(with_adaptive=False, with_dynamic=False, with_binary=True),
        dict(with_adaptive=False, with_dynamic=False, with_binary=True, sample_based=False),
    )
    handlers = []
    for setting in settings:
        handlers += [library.FmeasureHandler(**setting, beta=beta) for beta in (0.3, 1)]
        handlers += [getattr(library, f"{kind}Handler")(**setting) for kind in kinds]
    metrics = [library.Fmeasure(), library.WeightedFmeasure(), library.Smeasure(), library.Emeasure(), library.MAE()]
    metrics.append(library.FmeasureV2({str(number): handler for number, handler in enumerate(handlers)}))

    def score(job: ScoreJob) -> None:
        mask, prediction = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (job.mask, job.prediction))
        for metric in metrics:
            metric.step(pred=prediction, gt=mask)

    return score
