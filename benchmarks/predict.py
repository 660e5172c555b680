"""Maps made per second from the same photographs: the released way, ours without options, and ours with --fast.

Each row of each round runs in a process of its own. For each number the best of --rounds counts. The rounds take turns,
so that a busy moment does not slow down one row alone. Not timed: imports, the model, and a warm-up over some
photographs, which includes compiling. `images/s` is measured from files to files. The parts of an image are measured
separately, one after another: decode (file to input tensor), forward (normalise and the model, per image of a batch),
resize (logits to 8-bit map), write (PNG). The released way: batches of one, one file after another, all three outputs,
attention on padded windows, fp32, PNG by imageio.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import imageio
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released.masks import use_released_order_
from sam2unet.data.pairs import list_images
from sam2unet.data.reading import read_image
from sam2unet.errors import UserError
from sam2unet.families.load import open_model, read_checkpoint, start_model
from sam2unet.families.table import Family
from sam2unet.masks.open import build_predictor, choose_fast_options
from sam2unet.masks.outputs import PredictOutputs, to_grey_map, write_outputs
from sam2unet.masks.predict_folder import PredictFiles, find_jobs, make_reader, write_maps
from sam2unet.masks.predictor import PredictOptions, average_logits
from sam2unet.runtime.device import pick_device, set_seed
from sam2unet.runtime.parallel import batched
from sam2unet.weights.weight_files import read_weight_flags

ROWS = ("released", "ours", "fast")
OPTIONS = ("fp32", "bf16", "fp16", "compile", "fold")
STAGES = ("decode", "forward", "resize", "write")
TITLES = ("row", "images/s", "ratio", *(f"{stage}, ms" for stage in STAGES), "forward of device's peak", "batch")
SUMMARY = "{rate:.3f} images/s, forward {ms[forward]:.2f} ms  {choice}"
STAGE_IMAGES = 16  # photographs, or one batch, whose stages are measured


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--test_image_path", type=Path, required=True, help="folder of photographs")
    p.add_argument("--checkpoint", type=Path, help="default: random weights, which take the same time")
    harness.add_model_flags(p, " that a .safetensors checkpoint was trained from")
    p.add_argument("--megapixels", type=float, default=0.7, help="size of the resized photographs; default: 0.7")
    p.add_argument("--count", type=int, default=32, help="photographs, repeated if there are fewer; default: 32")
    p.add_argument("--workers", type=int, help="for ours and fast, as in test.py")
    p.add_argument("--batch_size", type=int, help="for ours and fast; default: 1, or the choice of --fast")
    harness.add_row_flags(p, ROWS, OPTIONS)


def run(args: argparse.Namespace) -> None:
    harness.check_rows(args.rows, OPTIONS)
    if min(args.count, args.rounds, args.batch_size or 1) < 1 or args.megapixels <= 0:
        raise UserError("count, rounds, megapixels and batch_size must be above 0")
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_photographs(args.test_image_path, Path(folder), args.count, args.megapixels)
        machine = harness.run_alone(inspect_prediction, args)
        mean = sum(width * height for width, height in sizes) / len(sizes) / 1e6
        work = f"{len(sizes)} photographs of {mean:.2f} megapixels, workers {harness.count_workers(args)}; "
        print(harness.describe_work(machine, f"{work}best of {args.rounds} rounds", "of one forward pass"), flush=True)
        measure = partial(measure_prediction, args, Path(folder))
        best = harness.measure_in_turns(args.rows, args.rounds, measure, SUMMARY, pick_best_numbers)
    print(f"\n{format_prediction(best, machine)}")


def write_photographs(source: Path, folder: Path, count: int, megapixels: float) -> list[tuple[int, int]]:
    """Writes resized copies as JPEG, without a change of the aspect ratio. Returns their sizes (width, height)."""
    sizes = []
    for number, path in enumerate(itertools.islice(itertools.cycle(list_images(source).values()), count)):
        photo = read_image(path)
        factor = math.sqrt(megapixels * 1e6 / (photo.width * photo.height))
        sizes.append((max(1, round(photo.width * factor)), max(1, round(photo.height * factor))))
        photo.resize(sizes[-1]).save(folder / f"{number:05d}.jpg", quality=95)
    return sizes


class ReleasedWay:
    """The steps of the released test script. `decode`, `forward`, `resize` and `write` are the stages of an image."""

    batch_size, kind, choice = 1, "fp32", ""

    def __init__(self, model: nn.Module, side: int, device: torch.device):
        self.model, self.device = use_released_order_(model), device
        normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalise])

    def decode(self, path: Path) -> tuple[Tensor, tuple[int, int]]:
        with Image.open(path) as file:
            photo = file.convert("RGB")
        return self.transform(photo).unsqueeze(0), (photo.height, photo.width)

    @torch.no_grad()
    def forward(self, images: list[Tensor]) -> list[Tensor]:
        logits, *_ = self.model(images[0].to(self.device))
        return [logits]

    def resize(self, logits: Tensor, size: tuple[int, int]) -> np.ndarray:
        res = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        res = res.sigmoid().data.cpu().numpy().squeeze()
        res = (res - res.min()) / (res.max() - res.min() + 1e-8)
        return (res * 255).astype(np.uint8)

    def write(self, folder: Path, name: str, grey: np.ndarray) -> None:
        imageio.imsave(folder / f"{name}.png", grey)

    def predict_folder(self, source: Path, target: Path) -> None:
        for name, path in list_images(source).items():
            image, size = self.decode(path)
            (logits,) = self.forward([image])
            self.write(target, name, self.resize(logits, size))


class OurWay:
    """What test.py runs, and the same stages of it."""

    def __init__(self, model: nn.Module, side: int, device: torch.device, row: str, args: argparse.Namespace):
        name, *added = row.split("+")
        amp = "auto" if name == "fast" else "off"
        amp = next((option.replace("fp32", "off") for option in added if option in ("fp32", "bf16", "fp16")), amp)
        options = PredictOptions(side, amp=amp, fold="fold" in added, compile="compile" in added)
        batch_size = args.batch_size
        with redirect_stdout(io.StringIO()) as text:
            if name == "fast":
                options, batch_size = choose_fast_options(device, options, batch_size)
        self.choice, self.batch_size, self.workers = text.getvalue().strip(), batch_size or 1, args.workers
        self.kind = "fp32" if options.amp == "off" else options.amp
        self.predictor = build_predictor(model, side, options)

    def decode(self, path: Path) -> tuple[list[Tensor], tuple[int, int]]:
        (job,) = find_jobs(PredictFiles(path, Path("maps")))
        photo = make_reader(self.predictor)(job)
        return photo.crops, photo.size

    @torch.inference_mode()
    def forward(self, images: list[list[Tensor]]) -> list[Tensor]:
        return list(self.predictor.predict_logits(torch.cat([crops for (crops,) in images])))

    @torch.inference_mode()
    def resize(self, logits: Tensor, size: tuple[int, int]) -> np.ndarray:
        return to_grey_map(average_logits([logits[None]], 0, size), True, PredictOutputs())

    def write(self, folder: Path, name: str, grey: np.ndarray) -> None:
        write_outputs(folder, name, grey)

    def predict_folder(self, source: Path, target: Path) -> None:
        files, outputs = PredictFiles(source, target), PredictOutputs()
        write_maps(self.predictor, find_jobs(files), files, outputs, True, self.batch_size, self.workers, show=False)


def build_evaluated_model(args: argparse.Namespace) -> nn.Module:
    """Returns the model on the CPU, in evaluation mode."""
    if args.checkpoint:
        return open_model(read_checkpoint(args.checkpoint), read_weight_flags(args), "cpu")
    set_seed(0)
    return start_model(args.model, harness.read_shape(args))[0].eval()


def inspect_prediction(args: argparse.Namespace) -> Measurement:
    packages = ("torch", "pillow", "opencv-python-headless", "imageio")
    return harness.describe_machine(args, build_evaluated_model(args), count_forward_flops, packages)


def count_forward_flops(way: str, family: Family, model: nn.Module, image: Tensor) -> tuple[int]:
    """Returns the floating-point operations of matrix products and convolutions. Only `released` makes all outputs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image) if way == "released" else family.logits(model, image)
    return (counter.get_total_flops(),)


def measure_prediction(args: argparse.Namespace, source: Path, row: str) -> Measurement:
    device, side = pick_device(args.device), harness.read_side(args)
    model = build_evaluated_model(args).to(device)
    way = ReleasedWay(model, side, device) if row == "released" else OurWay(model, side, device, row, args)
    paths = list(list_images(source).values())
    with tempfile.TemporaryDirectory() as target:
        # The first of two full measurements is a warm-up: memory settles, and code is compiled.
        milliseconds = [time_stages(way, paths, Path(target), device) for _ in range(2)][-1]
        start = time.perf_counter()
        way.predict_folder(source, Path(target))
        rate = len(paths) / (time.perf_counter() - start)
        assert len(list(Path(target).glob("*.png"))) == len(paths)
    return {"rate": rate, "ms": milliseconds, "kind": way.kind, "batch_size": way.batch_size, "choice": way.choice}


def time_stages(way: ReleasedWay | OurWay, paths: list[Path], target: Path, device: torch.device) -> dict[str, float]:
    """Returns the milliseconds per image of each stage. The stages run one after another."""
    paths = paths[: max(1, STAGE_IMAGES // way.batch_size) * way.batch_size]

    def time_stage(stage: Callable, calls: Iterable[tuple]) -> tuple[float, list]:
        harness.wait(device)
        start = time.perf_counter()
        results = [stage(*arguments) for arguments in calls]
        harness.wait(device)
        return 1e3 * (time.perf_counter() - start) / len(paths), results

    decode, decoded = time_stage(way.decode, [(path,) for path in paths])
    images, sizes = zip(*decoded, strict=True)
    forward, batches = time_stage(way.forward, [(list(batch),) for batch in batched(images, way.batch_size)])
    resize, greys = time_stage(way.resize, zip(itertools.chain(*batches), sizes, strict=True))
    write, _ = time_stage(way.write, [(target, path.stem, grey) for path, grey in zip(paths, greys, strict=True)])
    return {"decode": decode, "forward": forward, "resize": resize, "write": write}


def pick_best_numbers(a: Measurement, b: Measurement) -> Measurement:
    fastest = {stage: min(a["ms"][stage], b["ms"][stage]) for stage in STAGES}
    return b | {"ms": fastest, "rate": max(a["rate"], b["rate"])}


def format_prediction(best: harness.Best, machine: Measurement) -> str:
    def make_cells(row: str) -> list[str]:
        numbers, stages = best[row], best[row]["ms"]
        share = harness.format_peak_share(machine, row, 1e3 / stages["forward"], numbers["kind"])
        times = [harness.format_number(stages[stage]) for stage in STAGES]
        return [
            harness.format_number(numbers["rate"]),
            harness.format_ratio(best, row),
            *times,
            share,
            str(numbers["batch_size"]),
        ]

    return harness.format_table(TITLES, best, make_cells)
