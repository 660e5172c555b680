"""Shows the versions, the device, the cache and the optional parts, and tests the installation in about ten seconds.

Exit status: 0 if the test passes; 1 if a part of it fails.
"""

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..cli import Parser
from ..errors import SomeFailed, print_line
from ..runtime.versions import list_extras, read_cpu_name, version, versions
from ..weights.named import PUBLISHED, get_cache_folder

if TYPE_CHECKING:  # torch takes seconds to import, and --help does not need it
    import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "pysodmetrics")
EXTRAS = {
    "annotations": "formats of COCO, labelme, CVAT and others",
    "check": "similar images in training and test sets",
    "demo": "the page in the browser",
    "dicom_seg": "results as DICOM objects",
    "docs": "the manual",
    "export": "ONNX files",
    "fast": "faster scoring",
    "log": "TensorBoard",
    "medical": "NIfTI and DICOM",
    "plots": "curves and diagrams",
    "ray": "prediction with a Ray cluster",
    "video": "videos",
}
SIDE, UPDATES = 64, 12


class TestResult(NamedTuple):
    name: str
    passed: bool
    text: str


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", help="device to test: cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    return p


def run(args: argparse.Namespace) -> None:
    from ..runtime.device import describe_device, pick_device, pick_half_type

    print_line(f"sam2unet {__version__}")
    for name, number in versions(PACKAGES).items():
        print_line(f"  {name:<24}{number or 'not installed'}")
    device = pick_device(args.device)
    facts = describe_device(device)
    print_line(f"device: {facts.get('gpu', 'CPU')}; half precision: {pick_half_type(device)}")
    print_line(f"CPU: {read_cpu_name()}, {facts['cores']} cores")
    files = [weights for weights in PUBLISHED.values() if weights.path.is_file()]
    print_line(f"cache: {get_cache_folder()}, {len(files)} of {len(PUBLISHED)} weight files; sam2unet weights list")
    print_extras()
    start = time.monotonic()
    results = list(test_installation(device))
    for result in results:
        print_line(f"  {'passed' if result.passed else 'FAILED':<8}{result.name:<34}{result.text}")
    failed = [result.name for result in results if not result.passed]
    if failed:
        raise SomeFailed(f"{len(failed)} of {len(results)} tests failed: {', '.join(failed)}; see the lines above")
    print_line(f"all {len(results)} tests passed in {time.monotonic() - start:.0f} seconds")


def print_extras() -> None:
    """Prints a line for each optional part: installed, or the command that installs it."""
    print_line("optional parts:")
    for extra, packages in list_extras().items():
        if extra not in EXTRAS:
            continue
        missing = [name for name in packages if version(name) is None]
        state = f'pip install "sam2unet[{extra}]"' if missing else "installed"
        print_line(f"  {extra:<14}{EXTRAS[extra]:<44}{state}")


def test_installation(device: "torch.device") -> Iterator[TestResult]:
    """Trains the tiny model on one picture, predicts the picture, and scores the map in two ways.

    Without pysodmetrics, there is no second way, and no test of it.
    """
    import numpy as np
    import torch

    from ..families.load import create_model
    from ..losses import structure_loss
    from ..masks.api import predict
    from ..scoring.pixels.image_scores import score_image
    from ..scoring.pixels.library import score_by_library

    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - 40) ** 2 + (columns - 24) ** 2 < 15**2
    picture = np.where(disc[..., None], [220, 60, 30], [40, 90, 120]).astype(np.uint8)
    torch.manual_seed(0)
    model = create_model("sam2unet", encoder="tiny").train()
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None] / 127.5 - 1
    with torch.no_grad():  # weights that move to a device in `inference_mode` cannot be trained
        reference = model.eval()(image)[0]
        other = model.to(device)(image.to(device))[0].cpu()
    distance = float((reference - other).abs().max() / reference.abs().max())
    yield TestResult("the device computes as the CPU", distance < 1e-2, f"largest relative difference {distance:.1e}")

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    mask = torch.from_numpy(disc)[None, None].float().to(device)
    losses = []
    for _ in range(UPDATES):
        loss: Any = sum(structure_loss(logits, mask) for logits in model.train()(image.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    yield TestResult("the model learns", losses[-1] < 0.8 * losses[0], f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

    if version("pysodmetrics") is None:
        return
    map_ = np.rint(255 * predict(model, picture, size=SIDE)).astype(np.uint8)
    mask_values = 255 * disc.astype(np.uint8)
    ours, library = (score(map_, mask_values) for score in (score_image, score_by_library))
    gap = max(abs(getattr(ours, name) - getattr(library, name)) for name in ("S", "Fw", "MAE", "E_adaptive"))
    yield TestResult("the scores equal pysodmetrics", bool(gap < 1e-9), f"MAE {ours.MAE:.3f}, S {ours.S:.3f}")
