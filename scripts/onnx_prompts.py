"""Answer a prompt with the two ONNX files that export.py makes of SAM-Med2D: a mask in the image's size, 0 and 255.

An example to copy from: it computes with numpy, Pillow and onnxruntime alone, and prepares images as the training did,
so that the mask is test.py's.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sam2unet.cli import Parser, main
from sam2unet.data.reading import read_image
from sam2unet.errors import UserError, print_line
from sam2unet.files import written_whole


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--encoder", type=Path, required=True, help="NAME_encoder.onnx")
    p.add_argument("--decoder", type=Path, required=True, help="NAME_decoder.onnx")
    p.add_argument("--image", type=Path, required=True, help="a photograph, a slice of a scan, ...")
    p.add_argument("--points", type=numbers, nargs="+", default=[], metavar="X,Y", help="in pixels of the image")
    p.add_argument("--labels", type=int, nargs="+", choices=(0, 1), help="a point's 1 in the object, 0 not; default: 1")
    p.add_argument("--box", type=numbers, metavar="X0,Y0,X1,Y1", help="around the object; X1 and Y1 just outside of it")
    p.add_argument("--output", type=Path, required=True, help="mask.png")
    return p


def numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers with commas between them") from e


def run(args: argparse.Namespace) -> None:
    points, labels = prompt(args.points, args.labels, args.box)
    if args.output.resolve() in {path.resolve() for path in (args.image, args.encoder, args.decoder)}:
        raise UserError(f"--output {args.output} is a file to read from; give another name")
    encoder, decoder = open_part(args.encoder, "encoder"), open_part(args.decoder, "decoder")
    if encoder.facts["checkpoint_sha256"] != decoder.facts["checkpoint_sha256"]:
        raise UserError(f"{args.encoder} and {args.decoder} are of different checkpoints; export both at once")
    mask, quality = answer(encoder, decoder, np.asarray(read_image(args.image)), points, labels)
    with written_whole(args.output) as file:
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    print_line(f"{args.output}: {mask.sum():,} of {mask.size:,} pixels, quality {quality:.3f}")


def prompt(points: list, labels: list[int] | None, box: list[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """As the decoder takes them: (N, 2) and (N,), a box as two points with labels 2 and 3, else one with -1 at the end.

    That last one stays (0, 0) in the square that the encoder sees; what its label means does not depend on its place.
    """
    labels = [1] * len(points) if labels is None else labels
    if not points and box is None:
        raise UserError("nothing to look for; give --points or --box")
    if len(labels) != len(points):
        raise UserError(f"{len(points)} points have {len(labels)} labels; give one each")
    if any(len(point) != 2 for point in points) or box is not None and len(box) != 4:
        raise UserError("a point is X,Y and a box X0,Y0,X1,Y1")
    corners, kinds = ([[0, 0]], [-1]) if box is None else ([box[:2], box[2:]], [2, 3])
    return np.float32([*points, *corners]), np.float32([*labels, *kinds])


class Part(NamedTuple):
    session: object
    facts: dict[str, str]


def open_part(path: Path, part: str) -> Part:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise UserError("onnxruntime is not installed: pip install onnxruntime") from e
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as e:  # its errors have no class in common
        raise UserError(f"{path} is not an ONNX file, or only a part of one; export it again") from e
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get("part") != part:
        raise UserError(f"{path} is no {part} that scripts/export.py made of a model for prompts")
    if part == "decoder" and facts["resize_longest_side"] == "yes":
        raise UserError(f"{path} is for images prepared in SAM's way; export it without --resize_longest_side")
    return Part(session, facts)


def answer(
    encoder: Part, decoder: Part, image: np.ndarray, points: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, float]:
    """uint8 RGB (h, w, 3) and a prompt in its pixels -> bool (h, w) and how good the model holds the mask for.

    For more prompts in one image, keep what the encoder makes of it.
    """
    (height, width), side = image.shape[:2], int(encoder.facts["size"])
    pixels = image if encoder.facts["rgb"] == "yes" else image[..., ::-1]  # as trained
    pads = height < side and width < side and encoder.facts["use_preprocess"] == "no"
    top, left = ((side - height) // 2, (side - width) // 2) if pads else (0, 0)
    if encoder.facts["use_preprocess"] == "yes":
        given = pixels.astype(np.float32)
    elif pads:  # a small image as it is, in the middle, the rest 0
        given = np.zeros((1, 3, side, side), np.float32)
        given[..., top : top + height, left : left + width] = normalised(pixels, encoder.facts)
    else:  # any other stretched, by nearest pixels
        steps = np.arange(side)
        given = normalised(pixels[(steps * height // side)[:, None], steps * width // side], encoder.facts)
    (embedding,) = encoder.session.run(["image_embeddings"], {"input_image": given})

    scale = np.float32([1, 1] if pads else [side / width, side / height])
    shapes = {put.name: put.shape for put in decoder.session.get_inputs()}
    masks, qualities = decoder.session.run(
        ["masks", "iou_predictions"],
        {
            "image_embeddings": embedding,
            "point_coords": (points * scale + np.float32([left, top]))[None],
            "point_labels": labels[None],
            "mask_input": np.zeros(shapes["mask_input"], np.float32),  # or an answer's sigmoid(low_res_masks)
            "has_mask_input": np.zeros(1, np.float32),  # and then 1
            "orig_im_size": np.float32([side, side] if pads else [height, width]),
        },
    )
    first = min(1, qualities.shape[1] - 1)  # of four masks the last three, of which the model takes the best
    best = first + qualities[0, first:].argmax()
    logits = masks[0, best, top : top + height, left : left + width] if pads else masks[0, best]
    return logits > 0, float(qualities[0, best])


def normalised(pixels: np.ndarray, facts: dict[str, str]) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (1, 3, h, w)"""
    mean, std = (np.float64(facts[name].split()) for name in ("mean", "std"))
    return ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    main(parser, run)
