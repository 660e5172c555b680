"""Maps made per second from the same photographs: the released way, ours without options, and ours with --fast.

`images/s` is measured from files to files, after a warm-up, which includes compiling. The parts of an image are
measured separately, one after another: decode (file to input tensor), forward (normalise and the model, per image of a
batch), resize (logits to 8-bit map), write (PNG). The released way: batches of one, one file after another, all three
outputs, attention on padded windows, fp32, PNG by imageio.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released.masks import make_image_transform, use_released_order_
from sam2unet.data.pairs import list_images
from sam2unet.data.reading import read_image
from sam2unet.families.table import find_family_of
from sam2unet.masks.open import build_predictor, choose_fast_options
from sam2unet.masks.outputs import PredictOutputs, to_map_pixels, write_outputs
from sam2unet.masks.photo_reader import make_reader
from sam2unet.masks.predict_folder import PredictFiles, find_jobs, write_maps
from sam2unet.masks.predictor import PredictOptions, average_logits
from sam2unet.runtime.device import pick_device
from sam2unet.runtime.parallel import batched, map_files

OPTIONS = ("fp32", "bf16", "fp16", "compile", "fold", "exact")
COLUMNS = {
    "images/s": ("rate", ".3g"),
    "ratio": ("rate", "ratio"),
    **{f"{stage}, ms": (stage, ".3g") for stage in ("decode", "forward", "resize", "write")},
    "forward of device's peak": ("forward_rate", "share"),
    "batch": ("batch_size", "d"),
    "model alone, ms": ("model", ".3g"),
    "model of device's peak": ("model_rate", "share"),
}
STAGE_IMAGES = 16  # photographs at most, or one batch, whose stages are measured


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--test_image_path", type=Path, required=True, help="folder of photographs")
    p.add_argument("--checkpoint", type=Path, help="default: random weights, which take the same time")
    p.add_argument("--megapixels", type=float, default=0.7, help="size of the resized photographs; default: 0.7")
    p.add_argument("--count", type=int, default=32, help="photographs, repeated if there are fewer; default: 32")
    p.add_argument("--batch_size", type=int, help="for ours and fast; default: 1, or the choice of --fast")
    harness.add_model_flags(p, "masks", ("released", "ours", "fast"), OPTIONS)


def run(args: argparse.Namespace) -> Iterator[str]:
    harness.check_flags(args)
    with tempfile.TemporaryDirectory() as folder:
        args.photographs = Path(folder)
        write_photographs(args.test_image_path, Path(folder), args.count, args.megapixels)
        work = f"{args.count} photographs of {args.megapixels} megapixels", "of one forward pass"
        machine = args.alone.run(harness.inspect_model, args, *work, count_forward_flops)
        yield machine["text"]
        table = f"prediction with {machine['title']}" + (f", batch {args.batch_size}" if args.batch_size else "")
        yield harness.measure_rows(args, table, measure_prediction, COLUMNS, machine)[0]


def write_photographs(source: Path, folder: Path, count: int, megapixels: float) -> None:
    """Writes resized copies as JPEG, without a change of the aspect ratio."""

    def write(item: tuple[int, Path]) -> None:
        photo = read_image(item[1])
        factor = math.sqrt(megapixels * 1e6 / (photo.width * photo.height))
        photo = photo.resize([max(1, round(side * factor)) for side in photo.size])
        photo.save(folder / f"{item[0]:05d}.jpg", quality=95)

    map_files(write, list(enumerate(itertools.islice(itertools.cycle(list_images(source).values()), count))))


class ReleasedWay:
    """The steps of the released test script. `decode`, `forward`, `resize` and `write` are the stages of an image."""

    batch_size, kind = 1, "fp32"

    def __init__(self, model: nn.Module, side: int, device: torch.device):
        self.model, self.device = use_released_order_(model), device
        self.transform = make_image_transform(side)

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
        import imageio

        imageio.imsave(folder / f"{name}.png", grey)

    def predict_folder(self, source: Path, target: Path) -> None:
        for name, path in list_images(source).items():
            image, size = self.decode(path)
            (logits,) = self.forward([image])
            self.write(target, name, self.resize(logits, size))


class OurWay:
    """What test.py runs, and the same stages of it."""

    def __init__(self, model: nn.Module, device: torch.device, row: str, args: argparse.Namespace):
        words, batch_size = row.split("+"), args.batch_size
        amp = harness.choose_precision(row, "auto" if "fast" in words else "off")
        switches = {name: name in words for name in ("fold", "compile", "exact")}
        options = PredictOptions(args.size, amp=amp, **switches)
        if "fast" in words:
            options, batch_size = choose_fast_options(device, options, batch_size)
        self.workers, self.batch_size = args.workers, batch_size or 1
        self.kind = options.amp.replace("off", "fp32")
        self.predictor = build_predictor(model, args.size, options)

    def decode(self, path: Path) -> tuple[Tensor, tuple[int, int]]:
        (job,) = find_jobs(PredictFiles(path, Path("maps")))
        photo = make_reader(self.predictor)(job)
        return photo.crops[0], photo.size

    @torch.inference_mode()
    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return list(self.predictor.predict_logits(torch.cat(images)))

    @torch.inference_mode()
    def resize(self, logits: Tensor, size: tuple[int, int]) -> np.ndarray:
        return to_map_pixels(average_logits([logits[None]], 0, size), True, PredictOutputs())

    def write(self, folder: Path, name: str, grey: np.ndarray) -> None:
        write_outputs(folder, name, grey)

    def predict_folder(self, source: Path, target: Path) -> None:
        files, outputs = PredictFiles(source, target), PredictOutputs()
        write_maps(self.predictor, find_jobs(files), files, outputs, True, self.batch_size, self.workers, show=False)


def count_forward_flops(way: str, model: nn.Module, image: Tensor) -> tuple[int]:
    """Returns the floating-point operations of matrix products and convolutions. Only `released` makes all outputs."""
    family = find_family_of(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image) if way == "released" else family.logits(model.eval(), image)
    return (counter.get_total_flops(),)


def measure_prediction(args: argparse.Namespace, row: str) -> Measurement:
    device = pick_device(args.device)
    model = harness.build_model(args).eval().to(device)
    way = ReleasedWay(model, args.size, device) if row == "released" else OurWay(model, device, row, args)
    paths = list(list_images(args.photographs).values())
    with tempfile.TemporaryDirectory() as target:
        # The first of two full measurements is a warm-up: memory settles, and code is compiled.
        milliseconds = [time_stages(way, paths, Path(target), device) for _ in range(2)][-1]
        seconds, _ = harness.time_call(partial(way.predict_folder, args.photographs, Path(target)), device)
        assert len(list(Path(target).glob("*.png"))) == len(paths)
    rates = {"rate": len(paths) / seconds} | {f"{stage}_rate": 1e3 / ms for stage, ms in milliseconds.items()}
    return milliseconds | rates | {"kind": way.kind, "batch_size": way.batch_size}


def time_stages(way: ReleasedWay | OurWay, paths: list[Path], target: Path, device: torch.device) -> dict[str, float]:
    """Returns the milliseconds per image of each stage, and of the `model` alone, whose images are on the device."""
    count = max(1, min(STAGE_IMAGES, len(paths)) // way.batch_size) * way.batch_size
    paths = list(itertools.islice(itertools.cycle(paths), count))
    times = {}

    def time_stage(name: str, stage: Callable, calls: Iterable[tuple]) -> list:
        seconds, results = harness.time_call(lambda: [stage(*arguments) for arguments in calls], device)
        times[name] = 1e3 * seconds / len(paths)
        return results

    images, sizes = zip(*time_stage("decode", way.decode, [(path,) for path in paths]), strict=True)
    batches = time_stage("forward", way.forward, [(list(batch),) for batch in batched(images, way.batch_size)])
    greys = time_stage("resize", way.resize, zip(itertools.chain(*batches), sizes, strict=True))
    time_stage("write", way.write, [(target, path.stem, grey) for path, grey in zip(paths, greys, strict=True)])
    batch = [image.to(device) for image in images[: way.batch_size]]
    return times | {"model": 1e3 * min(harness.time_calls(partial(way.forward, batch), device)) / way.batch_size}
