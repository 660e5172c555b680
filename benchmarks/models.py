"""The model of a benchmark, its arithmetic, and the largest rate of the device."""

import argparse
import datetime
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import time_calls
from benchmarks.released import use_released_order_
from sam2unet.errors import UserError
from sam2unet.families.load import open_model, read_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import check_size, find_family, find_family_of
from sam2unet.limits import check_numbers
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import describe_device, pick_device, pick_half_type, set_seed
from sam2unet.runtime.parallel import default_workers
from sam2unet.runtime.versions import versions
from sam2unet.weights.weight_files import read_weight_flags

# FLOP/s without sparsity, from the data sheets. fp32 is the rate of matrix products in PyTorch's default, without TF32.
PEAKS = dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3"), {"fp32": 67e12, "bf16": 989e12})
PRECISIONS = {"fp32": "off", "bf16": "bf16", "fp16": "fp16"}  # an option of a row -> the value of --amp


class Machine(NamedTuple):
    """What all rows have in common."""

    title: str  # of the model
    flops: dict[str, tuple[int, ...]]  # floating-point operations for an image, released and ours
    peaks: dict[str, float]  # FLOP/s, by number type


def complete_flags(args: argparse.Namespace) -> None:
    """Fills in workers and sizes. Raises UserError for unknown rows, and for numbers outside their limits."""
    for row in args.rows:
        way, *added = row.split("+")
        if way not in ("released", "ours", "fast") or set(added) - set(args.options) or (way == "released" and added):
            options = ", +".join(args.options)
            raise UserError(f"no row {row}; there are released, and ours or fast with any of +{options}")
    for name in ("rounds", "steps", "count", "megapixels"):
        if getattr(args, name, 1) <= 0:
            raise UserError(f"{name} must be above 0")
    check_numbers(vars(args))
    args.workers = default_workers() if args.workers is None else args.workers
    args.size = args.size or Recipe.read(model=args.model).size


def choose_precision(row: str, default: str = "off") -> str:
    """Returns the value of --amp for a row, for example `bf16` for `ours+bf16`."""
    return next((PRECISIONS[option] for option in row.split("+") if option in PRECISIONS), default)


def build_model(args: argparse.Namespace) -> nn.Module:
    """Returns the model of a checkpoint, or a new one, on the CPU."""
    if getattr(args, "checkpoint", None):
        return open_model(read_checkpoint(args.checkpoint), read_weight_flags(args), "cpu")
    set_seed(Recipe().seed)
    side = args.size if "size" in find_family(args.model).options else None
    return start_model(args.model, NetworkShape(args.encoder, args.dino, side), read_weight_flags(args))[0]


def inspect_model(
    args: argparse.Namespace, work: str, count_flops: Callable[[str, nn.Module, Tensor], tuple[int, ...]] | None
) -> Machine:
    """Prints what all rows have in common. Raises UserError for flags that no row can work with.

    `count_flops` counts the arithmetic of a way of working for a model and an image (1, 3, S, S) on the meta device.
    """
    device, model = pick_device(args.device), build_model(args)
    family, name, flops = find_family_of(model), name_device(device), {}
    check_size(family, args.size)
    title = f"{family.describe(family.find_shape(model.state_dict()))} at {args.size}x{args.size}"
    if count_flops:
        model, image = model.to("meta"), torch.empty(1, 3, args.size, args.size, device="meta")
        flops["ours"] = count_flops("ours", model, image)
        flops["released"] = count_flops("released", use_released_order_(model), image)
    kinds = {"fp32": torch.float32} | ({} if pick_half_type(device) == "off" else {"bf16": torch.bfloat16})
    peaks = args.peaks or PEAKS.get(name) or {kind: measure_peak(device, dtype) for kind, dtype in kinds.items()}
    counts = ", ".join(f"{way} {' and '.join(f'{n / 1e9:.1f}' for n in flops[way])}" for way in reversed(flops))
    source = "data sheet" if name in PEAKS else "the fastest of some products and convolutions"
    print(f"{name}; {describe_versions()}\n{title}, {work}, workers {args.workers}, best of {args.rounds} rounds")
    print("arithmetic per image, GFLOP:", counts)
    print("device's peak, TFLOP/s:", ", ".join(f"{k} {peak / 1e12:.4g}" for k, peak in peaks.items()), f"({source})")
    return Machine(title, flops, peaks)


def find_share(args: argparse.Namespace, row: str, rate: float, precision: str) -> float | None:
    """Returns the arithmetic per second, as a share of the device's peak in this number type. None: it is unknown."""
    flops = args.machine.flops.get("released" if row == "released" else "ours")
    peak = args.machine.peaks.get(precision.replace("fp16", "bf16"))  # both are equally fast on a GPU
    return rate * flops[-1] / peak if peak and flops else None


def name_device(device: torch.device) -> str:
    facts = describe_device(device)
    return facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"


def describe_versions(packages: Sequence[str] = ("torch", "torchvision", "timm", "numpy", "pillow")) -> str:
    return f"{', '.join(f'{k} {v}' for k, v in versions(packages).items())}; {datetime.date.today().isoformat()}"


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Returns FLOP/s of a matrix product or of a convolution, whichever is faster. CPUs use two libraries for them."""
    side, width = (8192, 1024) if device.type == "cuda" else (1024, 128)
    shapes = (side, side), (side, side), (1, width, 130, 130), (width, width, 3, 3)
    a, b, images, weight = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    works = {2 * side**3: lambda: a @ b, 2 * 9 * width**2 * 128**2: lambda: F.conv2d(images, weight)}
    return max(flops / min(time_calls(work, device)) for flops, work in works.items())
