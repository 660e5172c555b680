"""Pairs scored per second, on the same files: the work of the released script, and eval.py.

Each row of each round runs in a process of its own. The fastest of --rounds counts. Not timed: imports, compiling and
one warm-up pair. Timed: decoding the files and starting the pool of processes. The rows name the library of the pixel
kernels and the number of processes. --classes compares with torchmetrics instead, which reads its files with the same
code: for IoU, Dice, accuracy and mean accuracy of the data set, or for IoU alone. --surfaces compares with MONAI, in
processor time without decoding.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage

from benchmarks import harness
from sam2unet.classes import IGNORED, Classes
from sam2unet.data.pairs import match
from sam2unet.data.reading import FOREGROUND, read_grey, read_indices
from sam2unet.scoring.classes.score_folders import count_pair
from sam2unet.scoring.pixels import kernels, weighted_f
from sam2unet.scoring.pixels.surface import surface_scores
from sam2unet.scoring.score_folders import pool_map
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job

CORES = os.cpu_count() or 1
PACKAGES = ("pysodmetrics", "numpy", "opencv-python-headless", "numba")
ROWS = ("released", *(f"{name} {n}" for name in ("numpy", "numba") for n in (1, CORES)))
SURFACE_ROWS = ("monai", "ours")
CLASS_ROWS = ("torchmetrics", "torchmetrics IoU", "classes 1", f"classes {CORES}")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--pred_path", type=Path, required=True, help="folder of maps")
    p.add_argument("--gt_path", type=Path, required=True, help="folder of the masks, with the same names")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--classes", type=Path, metavar="FILE", help="YAML file with classes: compare with torchmetrics")
    what.add_argument("--surfaces", action="store_true", help="distances between surfaces: compare with MONAI")
    p.add_argument("--pairs", type=int, default=60, help="number of pairs; default: 60")
    p.add_argument("--rounds", type=int, default=3, help="default: 3")
    p.set_defaults(rows=ROWS)


def run(args: argparse.Namespace) -> Iterator[str]:
    yield f"{harness.name_device(torch.device('cpu'))}, {CORES} cores; {harness.describe_versions(PACKAGES)}"
    tables = [("evaluation", ROWS, measure_scoring)]
    if args.classes:
        tables = [("evaluation of classes", CLASS_ROWS, measure_classes)]
    if args.surfaces:
        tables = [("surfaces of images", SURFACE_ROWS, partial(measure_surfaces, read_masks))]
        tables += [("surfaces of volumes, 64x256x256", SURFACE_ROWS, partial(measure_surfaces, draw_volumes))]
    for table, args.rows, measure in tables:
        columns = {"pairs/s": ("rate", "#.3g"), "ratio": ("rate", "ratio")}
        yield harness.measure_rows(args, table, measure, columns)[0]


def read_masks(args: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns pairs of a map and a mask, (H, W) bool. MONAI has no distances if one is empty, so these are left out."""
    pairs = match(args.pred_path, args.gt_path)[: args.pairs]
    arrays = [[np.asarray(read_grey(path)) > FOREGROUND for path in pair] for pair in pairs]
    return [pair for pair in arrays if all(map(np.any, pair))]


def draw_volumes(args: argparse.Namespace) -> Iterator[list[np.ndarray]]:
    """Yields ten pairs of similar blobs, (64, 256, 256) bool."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        field, noise = (ndimage.gaussian_filter(rng.standard_normal((64, 256, 256)), 8) for _ in range(2))
        yield [part > 1.2 * part.std() for part in (field, field + noise / 2)]


def measure_surfaces(make_pairs: Callable, args: argparse.Namespace, row: str) -> harness.Measurement:
    """Ours computes all columns, MONAI the four that it has. The seconds are processor time."""
    torch.set_num_threads(1)
    score, seconds, count = {"monai": build_monai, "ours": lambda: surface_scores}[row](), 0.0, 0
    for prediction, mask in make_pairs(args):
        spacing = (2.5, 0.8, 0.8)[-mask.ndim :]
        if count == 0:
            score(prediction, mask, spacing)  # the warm-up
        start = time.process_time()
        score(prediction, mask, spacing)
        seconds, count = seconds + time.process_time() - start, count + 1
    return {"rate": count / seconds}


def build_monai() -> Callable[[np.ndarray, np.ndarray, Sequence[float]], None]:
    """Returns a function that computes HD, HD95, ASSD and NSD."""
    import monai.metrics as library

    def score(prediction: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> None:
        pair = [torch.from_numpy(array)[None, None] for array in (prediction, mask)]
        options = {"include_background": True, "spacing": list(spacing)}
        for percentile in (None, 95):
            library.compute_hausdorff_distance(*pair, percentile=percentile, **options)
        library.compute_average_surface_distance(*pair, symmetric=True, **options)
        library.compute_surface_dice(*pair, [1.0], use_subvoxels=True, **options)

    return score


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


def measure_scoring(args: argparse.Namespace, row: str) -> harness.Measurement:
    """`row` is `released`, or the kernels and the number of processes, for example `numpy 2`."""
    library, *workers = row.split()
    if workers:
        importlib.import_module(library)  # numba may be missing
    multiprocessing.set_start_method("fork", force=True)  # the pool of processes has the same kernels
    if library == "numpy":
        weighted_f.kernels = kernels
    pairs = match(args.pred_path, args.gt_path)[: args.pairs]
    score, count = (score_job, int(workers[0])) if workers else (build_released_scorer(), 1)
    jobs = [ScoreJob(pair.image, pair.mask, ScoreOptions()) for pair in pairs]
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
