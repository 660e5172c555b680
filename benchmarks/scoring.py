"""Images scored per second, of the same files, by the released script's work and by the evaluator.

Each row is measured in a process of its own. Imports, compiling and one warm-up round are outside the clock; decoding
the files and starting the pool are inside. The fastest of `--rounds` counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sam2unet.data.pairs import match
from sam2unet.data.reading import read_mask
from sam2unet.errors import UserError
from sam2unet.runtime.versions import version
from sam2unet.scoring.score_folders import pool_map
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, read_prediction, score_job

CORES = os.cpu_count() or 1


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--pred_path", type=Path, required=True, help="folder of maps, resized for each of --sizes")
    p.add_argument("--gt_path", type=Path, required=True, help="folder of their masks")
    p.add_argument("--sizes", nargs="+", default=["737x984", "300x400"], metavar="HxW")
    p.add_argument("--pairs", type=int, default=60, help="how many to take")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--row", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    if args.row:
        measure(args.row, args.pred_path, args.gt_path, args.rounds)
        return
    sizes = [read_size(text) for text in args.sizes]
    names = ("pysodmetrics", "numpy", "opencv-python-headless", "numba")
    print(f"{platform.processor() or platform.machine()}, {CORES} cores, python {platform.python_version()}")
    print(", ".join(f"{name} {version(name) or 'absent'}" for name in names))
    rows = ["released", "numpy 1", f"numpy {CORES}"]
    rows += ["numba 1", f"numba {CORES}"] if version("numba") else []
    print(f"\n{'images/s (ratio)':<20}" + "".join(f"{text:>20}" for text in args.sizes))
    with tempfile.TemporaryDirectory() as folder:
        for text, size in zip(args.sizes, sizes, strict=True):
            write_pairs(args.pred_path, args.gt_path, Path(folder, text), size, args.pairs)
        first: dict[str, float] = {}
        for row in rows:
            cells = ""
            for text in args.sizes:
                speed = measured(row, Path(folder, text), args.rounds)
                cells += f"{speed:>11.1f} {f'({speed / first.setdefault(text, speed):.1f}x)':>8}"
            print(f"{row + (' process' if row.endswith(' 1') else ''):<20}{cells}", flush=True)


def read_size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise UserError(f"size {text} is not of the form HEIGHTxWIDTH") from None
    return height, width


def write_pairs(maps: Path, masks: Path, folder: Path, size: tuple[int, int], count: int) -> None:
    pairs = match(maps, masks)
    for kind in ("maps", "masks"):
        (folder / kind).mkdir(parents=True)
    for pair in pairs[:: max(1, len(pairs) // count)][:count]:
        arrays = {"maps": read_prediction(pair.image), "masks": np.asarray(read_mask(pair.mask))}
        for kind, array in arrays.items():
            if (array.shape[0] > array.shape[1]) != (size[0] > size[1]):
                array = array.T  # so that nothing is squeezed
            how = cv2.INTER_LINEAR if kind == "maps" else cv2.INTER_NEAREST
            resized = cv2.resize(np.ascontiguousarray(array), size[::-1], interpolation=how)
            cv2.imwrite(str(folder / kind / f"{pair.mask.stem}.png"), resized)


def measured(row: str, folder: Path, rounds: int) -> float:
    """Images/s of one row, from a process of its own; for the numpy rows one that finds no numba."""
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "eval",
        "--pred_path",
        folder / "maps",
        "--gt_path",
        folder / "masks",
    ]
    command += ["--rounds", rounds, "--row", row]
    absent = folder.parent / "absent"
    absent.mkdir(exist_ok=True)
    (absent / "numba.py").write_text("raise ImportError\n")
    environment = os.environ | ({"PYTHONPATH": str(absent)} if row.startswith("numpy") else {})
    words = [str(word) for word in command]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def measure(row: str, maps: Path, masks: Path, rounds: int) -> None:
    _, *workers = row.split()
    one, count = (score_job, int(workers[0])) if workers else (released_work(), 1)
    jobs = [ScoreJob(pair.image, pair.mask, ScoreOptions()) for pair in match(maps, masks)]
    one(jobs[0])
    best = min(timed(one, jobs, count) for _ in range(rounds))
    print(len(jobs) / best)


def timed(one: Callable[[ScoreJob], object], jobs: list[ScoreJob], workers: int) -> float:
    start = time.perf_counter()
    with pool_map(workers) as over:
        for _ in over(one, jobs):
            pass
    return time.perf_counter() - start


def released_work() -> Callable[[ScoreJob], None]:
    """The released script's six metric objects, one of them with 33 handlers, on files read by OpenCV."""
    import py_sod_metrics as library

    warnings.simplefilter("ignore")
    kinds = ["Precision", "Recall", "FPR", "IOU", "DICE", "Specificity", "BER", "OverallAccuracy", "Kappa"]
    ways = (
        dict(with_adaptive=True, with_dynamic=True),
        dict(with_adaptive=False, with_dynamic=False, with_binary=True),
        dict(with_adaptive=False, with_dynamic=False, with_binary=True, sample_based=False),
    )
    handlers = {}
    for way in ways:
        made = [library.FmeasureHandler(**way, beta=beta) for beta in (0.3, 1)]
        made += [getattr(library, f"{kind}Handler")(**way) for kind in kinds]
        handlers |= {f"{len(handlers) + i}": handler for i, handler in enumerate(made)}
    metrics = [library.Fmeasure(), library.WeightedFmeasure(), library.Smeasure(), library.Emeasure(), library.MAE()]
    metrics.append(library.FmeasureV2(handlers))

    def work(job: ScoreJob) -> None:
        mask, prediction = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (job.mask, job.prediction))
        for metric in metrics:
            metric.step(pred=prediction, gt=mask)

    return work
