"""One row of `benchmark.py predict`, a process of its own: its argument is a Job, its last line says what was found."""

from __future__ import annotations

import datetime
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path

import imageio
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from benchmarks.predict import Job
from benchmarks.released import masks as released
from benchmarks.train_row import KINDS, PEAKS, measured_peak, paths, size_of, wait
from sam2unet.data.pairs import list_images
from sam2unet.errors import UserError
from sam2unet.families.load import open_model, read_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import check_size, find_family_of
from sam2unet.masks.open import build_predictor, choose_fast_options
from sam2unet.masks.outputs import PredictOutputs, to_grey_map, write_outputs
from sam2unet.masks.predict_folder import PredictFiles, find_jobs, make_reader, write_maps
from sam2unet.masks.predictor import PredictOptions, average_logits
from sam2unet.runtime.device import pick_device, set_seed
from sam2unet.runtime.parallel import batched, default_workers
from sam2unet.runtime.versions import read_cpu_name, versions

PARTS = 16  # photographs whose parts are measured, or a batch of them


class Released:
    """The steps of the released test script; `decode`, `forward`, `resize` and `write` are an image's parts."""

    batch_size, kind, chosen = 1, "fp32", ""

    def __init__(self, model: nn.Module, size: int, device: torch.device):
        self.model, self.device = released.in_released_order(model), device
        normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.steps = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalise])

    def decode(self, path: Path) -> tuple[Tensor, tuple[int, int]]:
        with Image.open(path) as file:
            photo = file.convert("RGB")
        return self.steps(photo).unsqueeze(0), (photo.height, photo.width)

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

    def all(self, source: Path, target: Path) -> None:
        for name, path in list_images(source).items():
            image, size = self.decode(path)
            (logits,) = self.forward([image])
            self.write(target, name, self.resize(logits, size))


class Ours:
    """What test.py runs, and the same parts of it."""

    def __init__(self, model: nn.Module, size: int, device: torch.device, row: str, batch_size: int | None):
        name, *options = row.split("+")
        amp = "auto" if name == "fast" else "off"
        amp = next((option.replace("fp32", "off") for option in options if option in ("fp32", "bf16", "fp16")), amp)
        way, self.chosen = PredictOptions(size, amp=amp, fold="fold" in options, compile="compile" in options), ""
        if name == "fast":
            with redirect_stdout(io.StringIO()) as said:
                way, batch_size = choose_fast_options(device, way, batch_size)
            self.chosen = said.getvalue().strip()
        self.batch_size, self.kind = batch_size or 1, "fp32" if way.amp == "off" else way.amp
        self.predictor = build_predictor(model, size, way)
        self.workers: int | None = None

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

    def all(self, source: Path, target: Path) -> None:
        files = PredictFiles(source, target)
        write_maps(
            self.predictor, find_jobs(files), files, PredictOutputs(), True, self.batch_size, self.workers, show=False
        )


def model_of(job: Job) -> nn.Module:
    """In evaluation mode, on the CPU."""
    if job.checkpoint:
        return open_model(read_checkpoint(Path(job.checkpoint)), paths(job.weight_paths), "cpu")
    set_seed(0)
    return start_model(job.model, NetworkShape(**job.sizes))[0].eval()


def machine(job: Job) -> dict[str, object]:
    """What the rows have in common. UserError for what no row could work with."""
    device = pick_device(job.device)
    model, size = model_of(job), size_of(job)
    family = find_family_of(model)
    check_size(family, size)
    name_of_model = family.describe(family.find_shape(model.state_dict()))
    model, images = model.to("meta"), torch.empty(1, 3, size, size, device="meta")
    flops = {"ours": arithmetic(lambda: family.logits(model, images))}
    flops = {"released": arithmetic(lambda: released.in_released_order(model)(images))} | flops
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else read_cpu_name()
    return {
        "device": name if on_gpu else f"{name}, {torch.get_num_threads()} threads",
        "versions": versions(("torch", "pillow", "opencv-python-headless", "imageio")),
        "date": datetime.date.today().isoformat(),
        "model": name_of_model,
        "size": size,
        "workers": default_workers() if job.workers is None else job.workers,
        "flops": flops,
        "peaks": PEAKS.get(name) or {kind: measured_peak(device, dtype) for kind, dtype in KINDS.items()},
        "peaks_from": "data sheet" if name in PEAKS else "the fastest of some products and convolutions",
    }


def arithmetic(forward: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops()


def measure(job: Job) -> dict[str, object]:
    device = pick_device(job.device)
    model = model_of(job).to(device)
    if job.row == "released":
        way = Released(model, size_of(job), device)
    else:
        way = Ours(model, size_of(job), device, job.row, job.batch_size)
        way.workers = job.workers
    source = Path(job.folder)
    paths = list(list_images(source).values())
    with tempfile.TemporaryDirectory() as target:
        # A full batch, as often as it takes for memory to settle and code to be compiled.
        milliseconds = [parts(way, paths, Path(target), device) for _ in range(2)][-1]
        start = time.perf_counter()
        way.all(source, Path(target))
        seconds = time.perf_counter() - start
        assert len(list(Path(target).glob("*.png"))) == len(paths)
    return {
        "rate": len(paths) / seconds,
        "ms": milliseconds,
        "kind": way.kind,
        "batch_size": way.batch_size,
        "chosen": way.chosen,
    }


def parts(way: Released | Ours, paths: list[Path], target: Path, device: torch.device) -> dict[str, float]:
    """Milliseconds per image of each part, one after another."""
    paths = paths[: max(1, PARTS // way.batch_size) * way.batch_size]
    decode, decoded = timed(way.decode, [(path,) for path in paths], device)
    images, sizes = zip(*decoded, strict=True)
    forward, batches = timed(way.forward, [(list(batch),) for batch in batched(images, way.batch_size)], device)
    logits = [one for batch in batches for one in batch]
    resize, greys = timed(way.resize, zip(logits, sizes, strict=True), device)
    write, _ = timed(way.write, [(target, path.stem, grey) for path, grey in zip(paths, greys, strict=True)], device)
    found = {"decode": decode, "forward": forward, "resize": resize, "write": write}
    return {name: 1e3 * seconds / len(paths) for name, seconds in found.items()}


def timed(function: Callable, calls: Iterable[tuple], device: torch.device) -> tuple[float, list]:
    """Seconds for all calls, and what they returned."""
    wait(device)
    start = time.perf_counter()
    results = [function(*arguments) for arguments in calls]
    wait(device)
    return time.perf_counter() - start, results


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    try:
        found = machine(job) if job.row == "machine" else measure(job)
    except UserError as e:
        found = {"error": str(e)}
    except RuntimeError as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        found = {"failed": "out of memory"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
