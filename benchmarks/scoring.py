"""The benchmark of evaluation."""

import argparse
import importlib
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
import torch
from scipy import ndimage

from benchmarks.harness import Numbers, measure_rows, time_call
from benchmarks.models import describe_versions, name_device
from sam2unet.classes import IGNORED, Classes
from sam2unet.data.images.masks import FOREGROUND, read_grey, read_indices
from sam2unet.data.pairs import match
from sam2unet.runtime.parallel import count_cores
from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.chunks import score_chunk
from sam2unet.scoring.classes.score_folders import count_pair
from sam2unet.scoring.pixels import kernels, weighted_f
from sam2unet.scoring.pixels.surface import surface_scores
from sam2unet.scoring.pool import pool_map
from sam2unet.scoring.score_folders import make_jobs
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job

CORES = count_cores()
CPU = torch.device("cpu")
PACKAGES = ("pysodmetrics", "numpy", "opencv-python-headless", "numba")
ROWS = ("released", *(f"{name} {n}" for name in ("numpy", "numba") for n in (1, CORES)))
CLASS_ROWS = ("torchmetrics", "torchmetrics IoU", "classes 1", f"classes {CORES}")
Arrays = tuple[np.ndarray, np.ndarray]  # a map and a mask, bool


def run(args: argparse.Namespace) -> None:
    """Pairs scored per second, on the same files: the work of the released script, and eval.py.

    Not timed: imports, compiling and one warm-up pair. Timed: decoding the files and starting the pool of processes.
    The rows name the library of the pixel kernels and the number of processes. --classes compares with torchmetrics
    instead, which reads its files with the same code: for IoU, Dice, accuracy and mean accuracy of the data set, or for
    IoU alone. --surfaces compares with MONAI, in processor time without decoding.
    """
    print(f"{name_device(CPU)}, {CORES} cores; {describe_versions(PACKAGES)}", flush=True)
    if args.surfaces:
        args.rows = "monai", "ours"
        measure_rows(args, "eval", "surfaces of images", partial(measure_surfaces, read_masks))
        measure_rows(args, "eval", "surfaces of volumes, 64x256x256", partial(measure_surfaces, draw_volumes))
    else:
        args.rows = CLASS_ROWS if args.classes else args.rows
        measure_rows(args, "eval", "evaluation of classes" if args.classes else "evaluation", measure_scoring)


def measure_scoring(args: argparse.Namespace, row: str) -> Numbers:
    """`row` is a library and the number of processes or the names of metrics, for example `numpy 2`."""
    library, *words = row.split()
    if library in ("numpy", "numba"):
        importlib.import_module(library)  # numba may be missing
    if library == "numpy":
        weighted_f.kernels = kernels
    multiprocessing.set_start_method("fork", force=True)  # the pool of processes has the same kernels
    classes = Classes.read(args.classes) if args.classes else None
    pairs, options = match(args.pred_path, args.gt_path)[: args.pairs], ScoreOptions(classes)
    maps, masks = map(list, zip(*pairs, strict=True))
    jobs = [ScoreJob(*pair, options) for pair in pairs]
    builders = {"released": build_released_scorer, "torchmetrics": partial(build_torchmetrics, classes, words)}
    score = builders[library]() if library in builders else count_pair if classes else score_job
    score(jobs[0])

    def score_all() -> None:
        if library in builders:
            list(map(score, jobs))
            return
        with pool_map(int(words[0])) as map_jobs:
            list(map_jobs(partial(score_chunk, score), make_jobs(MethodResult("", "", [], maps, masks), 1, options)))

    return {"rate": len(jobs) / time_call(score_all, CPU)[0]}


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


def build_torchmetrics(classes: Classes, names: list[str]) -> Callable[[ScoreJob], None]:
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


def measure_surfaces(make_pairs: Callable, args: argparse.Namespace, row: str) -> Numbers:
    """Ours computes all columns, MONAI the four that it has. The seconds are processor time."""
    torch.set_num_threads(1)
    score, seconds = score_by_monai if row == "monai" else surface_scores, []
    for prediction, mask in make_pairs(args):
        spacing = (2.5, 0.8, 0.8)[-mask.ndim :]
        for _ in range(1 if seconds else 2):  # the first pair is also the warm-up
            start = time.process_time()
            score(prediction, mask, spacing)
        seconds.append(time.process_time() - start)
    return {"rate": len(seconds) / sum(seconds)}


def score_by_monai(prediction: np.ndarray, mask: np.ndarray, spacing: tuple[float, ...]) -> None:
    """Computes HD, HD95, ASSD and NSD."""
    import monai.metrics as library

    pair = [torch.from_numpy(array)[None, None] for array in (prediction, mask)]
    options = {"include_background": True, "spacing": list(spacing)}
    for percentile in (None, 95):
        library.compute_hausdorff_distance(*pair, percentile=percentile, **options)
    library.compute_average_surface_distance(*pair, symmetric=True, **options)
    library.compute_surface_dice(*pair, [1.0], use_subvoxels=True, **options)


def read_masks(args: argparse.Namespace) -> list[Arrays]:
    """Returns pairs (H, W). MONAI has no distances if an array is empty, so these pairs are left out."""
    pairs = match(args.pred_path, args.gt_path)[: args.pairs]
    arrays = [tuple(np.asarray(read_grey(path)) > FOREGROUND for path in pair) for pair in pairs]
    return [pair for pair in arrays if all(map(np.any, pair))]


def draw_volumes(args: argparse.Namespace) -> Iterator[Arrays]:
    """Yields ten pairs of similar blobs (64, 256, 256)."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        field, noise = (ndimage.gaussian_filter(rng.standard_normal((64, 256, 256)), 8) for _ in range(2))
        yield tuple(part > 1.2 * part.std() for part in (field, field + noise / 2))
