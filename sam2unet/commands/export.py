"""Exports a model as ONNX or torch.export. The file is compared with PyTorch on pictures before it is written.

SAM-Med2D, a model for prompts, becomes two ONNX files: --output NAME.onnx gives NAME_encoder.onnx and
NAME_decoder.onnx, with the inputs and outputs of the released files. scripts/onnx_prompts.py uses them.
"""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import LOWEST_OPSET
from ..cli import Parser
from ..errors import UserError, print_line
from ..weights.weight_files import add_weight_flags, read_weight_flags

if TYPE_CHECKING:  # torch takes seconds to import, and --help does not need it
    from PIL import Image

    from ..families.load import Checkpoint

COUNT = 4  # pictures for the check


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", type=Path, required=True, help="<title>-<epoch>.pth, .safetensors or hub folder")
    add_weight_flags(p)
    p.add_argument("--output", type=Path, required=True, help="model.onnx or model.pt2")
    p.add_argument("--format", choices=("onnx", "pt2"), help="default: the ending of --output")
    p.add_argument(
        "--size",
        type=int,
        help="side of the square input; default: the size of the training, or the released size if that is not known",
    )
    p.add_argument(
        "--whole",
        action="store_true",
        help="input is a uint8 photograph, output a uint8 map, both with the side of the input",
    )
    p.add_argument(
        "--images", type=Path, help=f"folder to take {COUNT} pictures for the check from; default: sample pictures"
    )
    prompts = p.add_argument_group("models for prompts", "as the released exporter has them; all off by default")
    number = prompts.add_mutually_exclusive_group()
    number.add_argument(
        "--return_single_mask",
        action="store_true",
        help="the default, a released flag: one mask, that of Prompter and test.py for any number of points",
    )
    number.add_argument(
        "--return_all_masks", action="store_true", help="all four masks, as the released exporter returns by default"
    )
    for flag, words in (
        ("resize_longest_side", "masks for images that were resized by their longest side and padded, as SAM does it"),
        ("use_stability_score", "iou_predictions are stability scores: pixels above logit 1 by those above -1"),
        ("return_extra_metrics", "outputs stability_scores and areas too, of the masks at the image's size"),
        ("use_preprocess", "the encoder takes float32 (H, W, 3), blue green red, 0..255, and stretches it to its side"),
        ("gelu_approximate", "GELU by tanh, faster in some runtimes; answers change a little"),
    ):
        prompts.add_argument(f"--{flag}", action="store_true", help=words)
    prompts.add_argument(
        "--for",
        choices=("x-anylabeling",),
        help="write what this labelling tool loads: an encoder that takes red first, a decoder, and NAME.yaml",
    )
    p.set_defaults(reverse_colours=False)  # an option of the graph that only --for sets
    prompts.add_argument("--opset", type=int, metavar="N", help=f"ONNX's, from {LOWEST_OPSET}; default: torch's")
    return p


def run(args: argparse.Namespace) -> None:
    from ..families.load import read_checkpoint

    output = args.output
    if args.format and output.suffix != f".{args.format}":
        if output.suffix:
            raise UserError(f"--format {args.format} and --output {output.name} say different things; leave one out")
        output = output.with_suffix(f".{args.format}")
    print_line(f"reading {args.checkpoint}")
    checkpoint = read_checkpoint(args.checkpoint)
    (export_masks if checkpoint.family.task == "masks" else export_prompts)(checkpoint, output, args)


def export_masks(checkpoint: "Checkpoint", output: Path, args: argparse.Namespace) -> None:
    from ..export import masks
    from ..export.prompt_graphs import GraphOptions

    defaults = asdict(GraphOptions()) | {"return_single_mask": False, "for": None}
    if flags := [f"--{name}" for name, default in defaults.items() if getattr(args, name) != default]:
        raise UserError(f"{checkpoint.family.title} takes no prompts; leave out {', '.join(flags)}")
    masks.run(checkpoint, output, read_pictures(args.images), args.size, args.whole, read_weight_flags(args))


def export_prompts(checkpoint: "Checkpoint", output: Path, args: argparse.Namespace) -> None:
    from ..export import prompts
    from ..export.prompt_graphs import GraphOptions

    title = checkpoint.family.title
    if args.whole:
        raise UserError(f"{title} is exported as two files; --use_preprocess takes photographs in place of --whole")
    if args.size not in (None, checkpoint.shape.size):
        raise UserError(
            f"{checkpoint.path} takes images of {checkpoint.shape.size} alone; leave out --size {args.size}"
        )
    options = GraphOptions(**{field.name: getattr(args, field.name) for field in fields(GraphOptions)})
    prompts.run(checkpoint, output, read_pictures(args.images), options, read_weight_flags(args), getattr(args, "for"))


def read_pictures(source: Path | None) -> "list[Image.Image]":
    """Returns photographs of the user's `source`, or sample pictures, on which the exported file is checked."""
    import numpy as np

    from ..data.images.pictures import pick_evenly
    from ..data.images.reading import read_image
    from ..data.sample_images import OBJECTS, SCENES, paste, read_photographs
    from ..masks.files.find_inputs import find_inputs

    if source is not None:
        return [read_image(item.path) for item in pick_evenly(find_inputs(source), COUNT)]
    objects, scenes = read_photographs(OBJECTS), read_photographs(SCENES)
    return [paste(objects, scenes, np.random.default_rng(seed), seed % 2 == 1)[0] for seed in range(COUNT)]
