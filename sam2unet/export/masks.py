"""Exports models for masks as ONNX or torch.export files, and compares their results with PyTorch."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor, nn

from ..atomic import refuse_existing, sha256, write_atomic
from ..classes import Classes
from ..errors import UserError, print_line
from ..families.load import Checkpoint, assemble
from ..families.settings import find_recipe
from ..families.table import Family, check_size
from ..masks.prediction.onnx_file import FORMAT, VERSION, OnnxForward
from ..masks.prediction.probability import stretch_range, to_probability_, to_uint8
from ..masks.transforms import IMAGENET_MEAN, IMAGENET_STD, image_bytes, normalise_image
from ..runtime.versions import import_extra
from ..weights.weight_files import NO_FILES, WeightFiles, WeightPaths, weight_files_to_facts
from .graph import check_difference, write_graph

FACTS_FILE = "sam2unet.json"  # in a .pt2, under extra/

Exported = Callable[[Tensor], Tensor]


class Logits(nn.Module):
    """A model that returns only the logits of its map."""

    def __init__(self, family: Family, model: nn.Module):
        super().__init__()
        assert family.logits is not None
        self.compute_logits, self.model = family.logits, model

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S), normalised -> (B, C, S, S)"""
        return self.compute_logits(self.model, image)


class WholeGraph(nn.Module):
    """A model with the released pre-processing and post-processing, except for resizing."""

    def __init__(self, logits: Logits):
        super().__init__()
        self.logits = logits

    def forward(self, photo: Tensor) -> Tensor:
        """uint8 (B, S, S, 3), RGB -> uint8 (B, S, S): the indices of classes, or grey levels stretched to 0..255."""
        logits = self.logits(normalise_image(photo.permute(0, 3, 1, 2)))
        if logits.shape[1] > 1:
            return logits.argmax(1).to(torch.uint8)
        probability = logits.sigmoid()[:, 0]
        low, high = probability.amin((1, 2), keepdim=True), probability.amax((1, 2), keepdim=True)
        return ((probability - low) / (high - low + 1e-8) * 255).to(torch.uint8)  # as `stretch_range`, per image


def run(
    checkpoint: Checkpoint,
    output: Path,
    pictures: Sequence[Image.Image],
    size: int | None = None,
    whole: bool = False,
    weight_paths: WeightPaths = NO_FILES,
) -> None:
    """Writes a model for masks as `output` (.onnx or .pt2), if it gives the same maps as PyTorch for RGB `pictures`.

    `whole` exports the released pre-processing and post-processing too. Raises UserError if the maps differ, or a
    package or an input is missing. No file is left then.
    """
    writer, reader = pick_format(output)
    refuse_existing(output)
    recipe = find_recipe(checkpoint, size=size)
    size = recipe.size
    check_size(checkpoint.family, size)
    model, weight_files = assemble(checkpoint, weight_paths, recipe)
    logits = Logits(checkpoint.family, model.eval())
    graph = WholeGraph(logits).eval() if whole else logits
    facts = describe_mask_export(checkpoint, weight_files, size, whole, recipe.classes)
    images = torch.stack([image_bytes(picture, size) for picture in pictures])
    with write_atomic(output) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about internals of the exporters
        print_line(f"exporting {checkpoint.family.describe(checkpoint.shape)} at {size}x{size}; this can take minutes")
        writer(graph, to_graph_input(graph, images[:1].repeat(2, 1, 1, 1)), facts, file)
        file.flush()
        print_line(f"comparing the file with torch on {len(images)} images")
        difference = find_largest_difference(reader(Path(file.name)), graph, images)
        check_difference(difference, output)
    print_line(f"{output}: {output.stat().st_size:,} bytes; {facts['input']} -> {facts['output']}")
    print_line(f"largest difference from torch over {len(images)} images, in batches of one and two: {difference:.2g}")


def pick_format(output: Path) -> tuple[Callable, Callable[[Path], Exported]]:
    """Returns the functions that write and read a file with this name. Raises UserError if a package is missing."""
    if output.suffix not in FORMATS:
        raise UserError(f"{output}: the name of an exported model ends in {' or '.join(FORMATS)}")
    if output.is_dir():
        raise UserError(f"{output} is a folder; give the name of a file")
    needed, writer, reader = FORMATS[output.suffix]
    for package in needed:
        import_extra(package, f'{package} is not installed, which .onnx needs: pip install "sam2unet[export]"')
    return writer, reader


def describe_mask_export(
    checkpoint: Checkpoint, weight_files: WeightFiles, size: int, whole: bool, classes: Classes | None
) -> dict[str, str]:
    """Returns what a program must know to use the file, and the origin of the weights."""
    resize = f"RGB, resized to {size}x{size}, bilinear with antialiasing (Pillow), aspect ratio not kept"
    to_map = "p = sigmoid, (p - min) / (max - min + 1e-8) of each map, times 255, truncated to 8 bits"
    if classes:
        to_map = "the index of the largest logit, which is the index of a class"
    if whole:
        inputs, outputs = f"photo uint8 (batch, {size}, {size}, 3)", f"map uint8 (batch, {size}, {size})"
        preprocessing = resize
        postprocessing = f"none but resizing{', by nearest neighbour' * bool(classes)}; inside: {to_map}"
    else:
        channels = checkpoint.shape.class_count or 1
        inputs = f"image float32 (batch, 3, {size}, {size})"
        outputs = f"logits float32 (batch, {channels}, {size}, {size})"
        preprocessing = f"{resize}, divided by 255, minus mean, divided by std"
        postprocessing = f"logits resized to the photograph's size (bilinear, corners not aligned), {to_map}"
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "model": checkpoint.family.name,
        **checkpoint.shape.to_facts(),
        "size": str(size),
        "whole": "yes" if whole else "no",
        "input": inputs,
        "output": outputs,
        "preprocessing": preprocessing,
        "mean": " ".join(f"{value:g}" for value in IMAGENET_MEAN.flatten().tolist()),
        "std": " ".join(f"{value:g}" for value in IMAGENET_STD.flatten().tolist()),
        "postprocessing": postprocessing,
        "checkpoint": checkpoint.path.name,
        "checkpoint_sha256": sha256(checkpoint.path),
    } | ({"classes": json.dumps(classes.to_entries())} if classes else {})
    return facts | weight_files_to_facts(weight_files)


def write_onnx(graph: nn.Module, example: Tensor, facts: dict[str, str], file: BinaryIO) -> None:
    inputs, outputs = ([facts[key].split()[0]] for key in ("input", "output"))
    write_graph(graph, (example,), inputs, outputs, ({0: torch.export.Dim("batch")},), facts, file)


def write_pt2(graph: nn.Module, example: Tensor, facts: dict[str, str], file: BinaryIO) -> None:
    program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # source lines and local paths
    torch.export.save(program, file, extra_files={FACTS_FILE: json.dumps(facts, indent=2)})


def read_onnx(path: Path) -> Exported:
    return OnnxForward(path, torch.device("cpu"))


def read_pt2(path: Path) -> Exported:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


# Suffix of a file -> packages that it needs, the function that writes it, the function that reads it.
FORMATS = {".onnx": (("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx), ".pt2": ((), write_pt2, read_pt2)}


def to_graph_input(graph: nn.Module, images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> the input of `graph`"""
    return images.permute(0, 2, 3, 1).contiguous() if isinstance(graph, WholeGraph) else normalise_image(images)


@torch.inference_mode()
def find_largest_difference(exported: Exported, graph: nn.Module, images: Tensor) -> float:
    """Returns the largest difference in probability over uint8 images (N, 3, S, S), in batches of one and of two."""
    if len(images) % 2:
        images = torch.cat([images, images[-1:].flip(-1)])
    is_whole = isinstance(graph, WholeGraph)
    logits = graph.logits if isinstance(graph, WholeGraph) else graph
    wanted = torch.stack([to_probability_(logits(normalise_image(image[None]))) for image in images])
    worst = []
    for count in (1, 2):
        results = torch.cat([exported(to_graph_input(graph, part)) for part in images.split(count)])
        if is_whole:
            worst.append(compare_maps(results, wanted))
        else:
            results = torch.stack([to_probability_(part[None]) for part in results])
            worst.append((results - wanted).abs().max())
    return torch.stack(worst).max().item()


def compare_maps(maps: Tensor, probability: Tensor) -> Tensor:
    """Returns the largest difference in probability between the maps of a whole graph, uint8 (N, S, S), and PyTorch.

    With classes, it is the difference between the most probable class of a pixel and the class in the map. Grey levels
    are compared with the maps of test.py. Both are truncated, which turns any small difference into one level.
    Therefore one level counts as no difference.

    Args:
        probability: (N, S, S), or (N, C, S, S) with classes.
    """
    if probability.ndim == 4:
        return (probability.amax(1) - probability.gather(1, maps[:, None].long())[:, 0]).max()
    greys = torch.stack([torch.from_numpy(to_uint8(stretch_range(map_))) for map_ in probability])
    span = probability.amax((1, 2), keepdim=True) - probability.amin((1, 2), keepdim=True)
    levels = (maps.int() - greys.int()).abs()
    return ((levels - 1).clamp(min=0) / 255 * span).max()
