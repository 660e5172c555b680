"""The benchmarks of prediction, of maps and of masks for prompts."""

import argparse
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models, released
from benchmarks.harness import Numbers, measure_rows, time_call, time_calls
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import list_images
from sam2unet.families.table import find_family_of
from sam2unet.masks.files.outputs import PredictOutputs, to_map_pixels, write_outputs
from sam2unet.masks.files.predict_folder import PredictFiles, find_jobs, write_maps
from sam2unet.masks.prediction.open import build_predictor, choose_fast_options
from sam2unet.masks.prediction.options import PredictOptions
from sam2unet.masks.prediction.predictor import average_logits
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import read_train_list
from sam2unet.prompts.prompter import Prompter
from sam2unet.runtime.device import autocast, pick_device
from sam2unet.runtime.parallel import batched

ROWS, OPTIONS = ("released", "ours", "fast"), ("fp32", "bf16", "fp16", "compile", "fold", "exact")
PROMPT_ROWS = ("released", "ours", "ours+bf16")
STAGE_IMAGES = 16  # photographs at most, or one batch, whose stages are measured


def run(args: argparse.Namespace) -> None:
    """Maps made per second from the same photographs: the released way, ours without options, and ours with --fast.

    `images/s` is measured from files to files, after a warm-up, which includes compiling. The parts of an image are
    measured separately, one after another: decode (file to input tensor), forward (normalise and the model, per image
    of a batch), resize (logits to 8-bit map), write (PNG). The released way: batches of one, one file after another,
    all three outputs, attention on padded windows, fp32, PNG by imageio.
    """
    models.complete_flags(args)
    with tempfile.TemporaryDirectory() as folder:
        args.photographs = Path(folder)
        for number, path in zip(range(args.count), itertools.cycle(list_images(args.test_image_path).values())):
            photo = read_image(path)
            factor = math.sqrt(args.megapixels * 1e6 / (photo.width * photo.height))
            photo = photo.resize([max(1, round(side * factor)) for side in photo.size])
            photo.save(args.photographs / f"{number:05d}.jpg", quality=95)
        work = f"{args.count} photographs of {args.megapixels} megapixels"
        args.machine = args.alone.run(models.inspect_model, args, work, count_flops)
        table = f"prediction with {args.machine.title}" + (f", batch {args.batch_size}" if args.batch_size else "")
        measure_rows(args, "predict", table, measure_prediction)


class ReleasedWay:
    """The steps of the released test script. `decode`, `forward`, `resize` and `write` are the stages of an image."""

    batch_size, precision = 1, "fp32"

    def __init__(self, args: argparse.Namespace, row: str, device: torch.device):
        self.model, self.device = released.use_released_order_(models.build_model(args).eval().to(device)), device
        self.transform = released.make_image_transform(args.size)

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

    def __init__(self, args: argparse.Namespace, row: str, device: torch.device):
        words, batch_size = row.split("+"), args.batch_size
        amp = models.choose_precision(row, "auto" if "fast" in words else "off")
        options = PredictOptions(args.size, amp, **{name: name in words for name in ("fold", "compile", "exact")})
        if "fast" in words:
            options, batch_size = choose_fast_options(device, options, batch_size)
        self.workers, self.batch_size, self.precision = (
            args.workers,
            batch_size or 1,
            options.amp.replace("off", "fp32"),
        )
        self.predictor = build_predictor(models.build_model(args).eval().to(device), args.size, options)

    def decode(self, path: Path) -> tuple[Tensor, tuple[int, int]]:
        photo = self.predictor.prepare(read_image(path))
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


def count_flops(way: str, model: nn.Module, image: Tensor) -> tuple[int]:
    """Returns the floating-point operations of a forward pass. Only `released` makes all outputs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image) if way == "released" else find_family_of(model).logits(model.eval(), image)
    return (counter.get_total_flops(),)


def measure_prediction(args: argparse.Namespace, row: str) -> Numbers:
    device, paths = pick_device(args.device), list(list_images(args.photographs).values())
    way = (ReleasedWay if row == "released" else OurWay)(args, row, device)
    with tempfile.TemporaryDirectory() as target:
        # The first of two full measurements is a warm-up: memory settles, and code is compiled.
        numbers = [time_stages(way, paths, Path(target), device) for _ in range(2)][-1]
        seconds, _ = time_call(partial(way.predict_folder, args.photographs, Path(target)), device)
        assert len(list(Path(target).glob("*.png"))) == len(paths)
    for stage in ("forward", "model"):
        numbers[f"{stage}_share"] = models.find_share(args, row, 1e3 / numbers[stage], way.precision)
    return numbers | {"rate": len(paths) / seconds, "precision": way.precision, "batch_size": way.batch_size}


def time_stages(way: ReleasedWay | OurWay, paths: list[Path], target: Path, device: torch.device) -> Numbers:
    """Returns the milliseconds per image of each stage, and of the `model` alone, whose images are on the device."""
    count = max(1, min(STAGE_IMAGES, len(paths)) // way.batch_size) * way.batch_size
    paths, times = list(itertools.islice(itertools.cycle(paths), count)), {}

    def time_stage(name: str, stage: Callable, calls: Iterable[tuple]) -> list:
        seconds, results = time_call(lambda: [stage(*arguments) for arguments in calls], device)
        times[name] = 1e3 * seconds / count
        return results

    images, sizes = zip(*time_stage("decode", way.decode, [(path,) for path in paths]), strict=True)
    batches = time_stage("forward", way.forward, [(list(batch),) for batch in batched(images, way.batch_size)])
    greys = time_stage("resize", way.resize, zip(itertools.chain(*batches), sizes, strict=True))
    time_stage("write", way.write, [(target, path.stem, grey) for path, grey in zip(paths, greys, strict=True)])
    batch = [image.to(device) for image in images[: way.batch_size]]
    return times | {"model": 1e3 * min(time_calls(partial(way.forward, batch), device)) / way.batch_size}


def run_prompts(args: argparse.Namespace) -> None:
    """SAM-Med2D's encoder and clicks: the released way and ours, on the same image.

    Encoder: milliseconds for one framed image. Click: milliseconds from a point to the mask in the size of the image,
    which is encoded before. Of 20 times, the median counts.
    """
    args.model = "sam_med2d"
    models.complete_flags(args)
    for part in ("encoder", "click"):
        measure_rows(args, part, f"SAM-Med2D: {part}, ms", partial(measure_prompts, part))


def measure_prompts(part: str, args: argparse.Namespace, row: str) -> Numbers:
    device, path = pick_device(args.device), read_train_list(args.data_path)[0].image
    model, photo = models.build_model(args).to(device), read_image(path)
    square, frame = Framing(model.side).image(path)
    image, prompter = normalise_square(square[None], [frame]).to(device), Prompter(model).set_image(photo)
    point, labels = torch.tensor([[photo.width / 2, photo.height / 2]]), torch.ones(1, 1, device=device)
    coords, size = frame.to_square(point)[None].to(device), (photo.height, photo.width)
    works = {
        "encoder": lambda: model.image_encoder(image),
        "click": lambda: prompter.predict(point, [1]).masks,
        "released click": lambda: released.answer_click(model, prompter.embedding, (coords, labels), size),
    }
    if row == "released":
        released.use_released_order_(model)
    with torch.inference_mode(), autocast(device, models.choose_precision(row)):
        work = works.get(f"{row} {part}", works[part])
        work()  # the warm-up
        seconds = statistics.median(time_calls(work, device))
    return {"ms": 1e3 * seconds, "rate": 1 / seconds}
