"""The benchmark of very large data: what grows with the number of masks in an index."""

import argparse
import json
import multiprocessing
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Numbers, measure_rows
from benchmarks.models import describe_versions, name_device
from sam2unet.data.images.grey_png import compile_undo_filters
from sam2unet.data.index.build import build_index
from sam2unet.data.index.columns import COLUMNS as INDEX_COLUMNS
from sam2unet.data.index.columns import FACTS, load_column
from sam2unet.data.index.select import IndexQuery
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import ALONE
from sam2unet.task import RunData
from sam2unet.training.prepare import Hardware, RunFolder, prepare_run
from sam2unet.training.readers import make_loader

CPU = torch.device("cpu")
ROWS = ("1e3", "1e5", "1e6", "1e7")
CASES, MASKS, SIDE = 2000, 4, 256  # of the archive whose entries the indexes repeat
STEPS = 200  # batches until the memory of a worker is read


def run(args: argparse.Namespace) -> None:
    """Start-up time and memory of training for indexes of different lengths, and the speed of a build.

    A row is the number of masks. All indexes repeat the entries of one archive, so that there are few files and many
    entries. A worker is a process that reads images; its memory is what it alone holds, without files.
    """
    print(f"{name_device(CPU)}; {describe_versions(('numpy', 'torch'))}", flush=True)
    folder = args.results.folder
    write_archive(folder / "SAMed2Dv1.zip")
    rows, args.rows, args.rounds = args.rows, ["build"], 1
    measure_rows(args, "build", "building an index", partial(measure_build, folder))
    args.rows = rows
    for model in ("sam2unet", "sam_med2d"):
        measure_rows(args, "start", f"start of training {model} on an index", partial(measure_start, folder, model))


def write_archive(path: Path) -> None:
    """Writes images and masks with ellipses, named as in SA-Med2D-20M."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:SIDE, :SIDE]
    part = path.parent / "part.png"
    with zipfile.ZipFile(path, "w") as archive:
        for case in range(CASES):
            name = f"ct_00--AMOS--Case_{case:05}--x_0001"
            pixels = rng.normal(90, 20, (SIDE // 4, SIDE // 4, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(part)
            archive.write(part, f"SAMed2Dv1/images/{name}.png")
            for number in range(MASKS):
                (cx, cy), (a, b) = rng.integers(60, SIDE - 60, 2), rng.integers(10, 50, 2)
                Image.fromarray((((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1).astype(np.uint8)).save(part)
                archive.write(part, f"SAMed2Dv1/masks/{name}--{number:04}_000.png")
    part.unlink()


def measure_build(folder: Path, args: argparse.Namespace, row: str) -> Numbers:
    compile_undo_filters()
    start = time.perf_counter()
    index = build_index([folder / "SAMed2Dv1.zip"], folder / "index")
    return {"rate": len(index.order) / (time.perf_counter() - start)}


def write_index(folder: Path, count: int) -> Path:
    """Writes an index of `count` masks, which repeats the entries of the small one. Each repetition has other cases."""
    small, large = folder / "index", folder / f"index-{count}"
    if (large / FACTS).exists():
        return large
    large.mkdir(exist_ok=True)
    facts = json.loads((small / FACTS).read_text())
    times = np.arange(max(1, count // facts["masks"]))[:, None]
    steps = {"order": facts["masks"], "ends": facts["masks"], "image_case": 2**40}
    steps |= {f"{kind}_ends": len(load_column(small, f"{kind}_places")) for kind in ("image", "mask")}
    for name in ("image_places", "mask_places", "image_ends", "mask_ends", "order", "ends", *INDEX_COLUMNS):
        column = np.asarray(load_column(small, name))
        with np.errstate(over="ignore"):
            step = np.array(steps.get(name, 0)).astype(column.dtype)
            np.save(large / f"{name}.npy", (column + times.astype(column.dtype) * step).ravel())
    facts |= {"images": facts["images"] * len(times), "masks": facts["masks"] * len(times)}
    (large / FACTS).write_text(json.dumps(facts))
    return large


def measure_start(folder: Path, model: str, args: argparse.Namespace, row: str) -> Numbers:
    """Measures from the imports to the first batch, and the memory of a worker after more batches."""
    index = write_index(folder, int(float(row)))
    recipe = Recipe.read(model=model, encoder="micro", size=64, batch_size=2, mask_threshold=0)
    memory, cpu, start = read_memory("self", "Rss"), time.process_time(), time.perf_counter()
    data = RunData(index=IndexQuery(index, split="case:0.9"))
    run = prepare_run(recipe, data, RunFolder(folder / "run"), Hardware("cpu"), {}, None, None, ALONE, CPU)
    assert run.facts
    dataset = run.task.dataset("off", folder, run.processes)
    batches = iter(make_loader(dataset, run.batches, 1, CPU))
    next(batches)
    numbers = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - start}
    numbers |= {"memory": read_memory("self", "Rss") - memory, "rate": 0.0}
    start, count = time.perf_counter(), 0
    for _, _ in zip(range(STEPS), batches, strict=False):
        count += 1
    step = (time.perf_counter() - start) / count * 1e3
    (worker,) = multiprocessing.active_children()
    return numbers | {"step": step, "worker": read_memory(worker.pid, "Private")}


def read_memory(process: object, kind: str) -> float:
    """Returns the memory of a process in MiB: "Rss", resident, or "Private", what it alone holds, without files."""
    total: float = 0
    is_file = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, *words = line.split()
        if "-" in name:
            is_file = words[3] != "0"  # the inode of a mapping
        elif name.startswith(kind) and not (is_file and kind == "Private"):
            total += int(words[0])
    return total / 1024
