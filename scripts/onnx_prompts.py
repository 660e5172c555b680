"""Answer a prompt with the two ONNX files of a SAM-Med2D: a mask in the image's size, 0 and 255.

The files are those of export.py or of the released exporter. This is an example to copy from: it computes with numpy,
Pillow and onnxruntime alone, and prepares images as the training did, so that the mask is that of Prompter and test.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sam2unet.atomic import read_start, refuse_existing, write_atomic
from sam2unet.cli import Parser, main
from sam2unet.data.reading import read_image
from sam2unet.errors import UserError, print_line

# What holds for the released files, which do not say it.
RELEASED = {"mean": "123.675 116.28 103.53", "std": "58.395 57.12 57.375", "rgb": "no", "mask_prompt": "probability"}
INPUTS = {
    "encoder": ["input_image"],
    "decoder": [
        *("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"),
    ],
}


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--encoder", type=Path, required=True, help="NAME_encoder.onnx")
    p.add_argument("--decoder", type=Path, required=True, help="NAME_decoder.onnx")
    p.add_argument("--image", type=Path, required=True, help="a photograph, a slice of a scan, ...")
    p.add_argument("--points", type=numbers, nargs="+", default=[], metavar="X,Y", help="in pixels of the image")
    p.add_argument("--labels", type=int, nargs="+", choices=(0, 1), help="a point's 1 in the object, 0 not; default: 1")
    p.add_argument("--box", type=numbers, metavar="X0,Y0,X1,Y1", help="around the object; X1 and Y1 just outside of it")
    p.add_argument("--mask", type=Path, metavar="FILE", help="an earlier answer to correct, .npy of --save_prompt")
    p.add_argument("--output", type=Path, required=True, help="mask.png")
    p.add_argument("--save_prompt", type=Path, metavar="FILE", help=".npy, the answer for --mask of the next call")
    return p


def numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers with commas between them") from e


def run(args: argparse.Namespace) -> None:
    points, labels = prompt(args.points, args.labels, args.box, args.mask is not None)
    refuse_existing(args.output, *filter(None, [args.save_prompt]))
    if args.save_prompt == args.output:
        raise UserError(f"--save_prompt and --output are both {args.output}; give two names")
    pair = open_pair(args.encoder, args.decoder)
    mask = None if args.mask is None else read_mask(args.mask, pair.side // 4)
    found = answer(pair, np.asarray(read_image(args.image)), points, labels, mask)
    with write_atomic(args.output) as file:
        Image.fromarray(found.mask.astype(np.uint8) * 255).save(file, "PNG")
    if args.save_prompt is not None:
        with write_atomic(args.save_prompt) as file:
            np.save(file, found.prompt)
    print_line(f"{args.output}: {found.mask.sum():,} of {found.mask.size:,} pixels, quality {found.quality:.3f}")


def prompt(
    points: list, labels: list[int] | None, box: list[float] | None, has_mask: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """As the decoder takes them: (N, 2) and (N,), a box as two points with labels 2 and 3, points alone with a last -1.

    That last one stays (0, 0) in the square that the encoder sees; what its label means does not depend on its place.
    Released decoders need it, those of export.py add it where it is missing.
    """
    labels = [1] * len(points) if labels is None else labels
    if not points and box is None and not has_mask:
        raise UserError("nothing to look for; give --points, --box or --mask")
    if len(labels) != len(points):
        raise UserError(f"{len(points)} points have {len(labels)} labels; give one each")
    if any(len(point) != 2 for point in points) or box is not None and len(box) != 4:
        raise UserError("a point is X,Y and a box X0,Y0,X1,Y1")
    places = np.array([*points, *([] if box is None else [box[:2], box[2:]])]).reshape(-1, 2)
    if not (np.abs(places) < 1e9).all():  # NaN too
        raise UserError("--points or --box has a value that is no number, or beyond a billion; give the image's pixels")
    kinds = [2, 3] if box is not None else [-1] if points else []
    if -1 in kinds:
        places = np.concatenate([places, np.zeros((1, 2))])
    return places.astype(np.float32), np.array([*labels, *kinds], np.float32)


class Part(NamedTuple):
    path: Path
    session: object
    shapes: dict[str, list]  # of the inputs
    facts: dict[str, str]


class Pair(NamedTuple):
    encoder: Part
    decoder: Part
    side: int
    facts: Mapping[str, str]


def open_pair(encoder: Path, decoder: Path) -> Pair:
    """UserError where they are not the two parts of one model."""
    parts = first, second = open_part(encoder, "encoder"), open_part(decoder, "decoder")
    side = second.shapes["mask_input"][-1]
    if not isinstance(side, int) or first.shapes["input_image"][2:] not in ([4 * side, 4 * side], [3]):
        raise UserError(f"{encoder} and {decoder} are made for images of different sizes; export both at once")
    if len({part.facts["checkpoint_sha256"] for part in parts if "checkpoint_sha256" in part.facts}) > 1:
        raise UserError(f"{encoder} and {decoder} are of different checkpoints; export both at once")
    if second.facts.get("resize_longest_side") == "yes":
        raise UserError(f"{decoder} is for images prepared in SAM's way; export it without --resize_longest_side")
    return Pair(first, second, 4 * side, RELEASED | first.facts | second.facts)


def open_part(path: Path, part: str) -> Part:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise UserError("onnxruntime is not installed: pip install onnxruntime") from e
    read_start(path, 0)  # UserError if it cannot be read
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong, its exceptions say
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # its errors have no class in common
        raise UserError(f"{path} is not an ONNX file, or only a part of one; export it again") from e
    shapes = {put.name: put.shape for put in session.get_inputs()}
    if list(shapes) != INPUTS[part]:
        raise UserError(f"{path} is no {part} of a SAM-Med2D; its inputs are called {', '.join(shapes)}")
    return Part(path, session, shapes, session.get_modelmeta().custom_metadata_map)


def read_mask(path: Path, side: int) -> np.ndarray:
    """float32 (1, 1, side, side)"""
    try:
        mask = np.load(path, allow_pickle=False)
        mask = mask.astype(np.float32).reshape(mask.shape[-3:])[None]
    except Exception as e:  # a file of any kind
        raise UserError(f"cannot read {path}; give a .npy that --save_prompt wrote") from e
    if mask.shape != (1, 1, side, side) or not np.isfinite(mask).all():
        raise UserError(f"{path} is no (1, 1, {side}, {side}) of numbers; give a .npy that --save_prompt wrote")
    return mask


class Answer(NamedTuple):
    mask: np.ndarray  # bool (h, w)
    quality: float  # how good the model holds it for
    prompt: np.ndarray  # float32 (1, 1, 4g, 4g), to give as a mask prompt


def answer(
    pair: Pair, image: np.ndarray, points: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None
) -> Answer:
    """Of a uint8 RGB (h, w, 3) and a prompt in its pixels. For more prompts in one image, keep its embedding."""
    (height, width), side = image.shape[:2], pair.side
    pixels = image if pair.facts["rgb"] == "yes" else image[..., ::-1]  # as trained
    prepares = len(pair.encoder.shapes["input_image"]) == 3  # by itself, exported with --use_preprocess
    pads = height < side and width < side and not prepares
    top, left = ((side - height) // 2, (side - width) // 2) if pads else (0, 0)
    if prepares:
        given = pixels.astype(np.float32)
    elif pads:  # a small image as it is, in the middle, the rest 0
        given = np.zeros((1, 3, side, side), np.float32)
        given[..., top : top + height, left : left + width] = normalised(pixels, pair.facts)
    else:  # any other stretched, by nearest pixels
        steps = np.arange(side)
        given = normalised(pixels[(steps * height // side)[:, None], steps * width // side], pair.facts)
    (embedding,) = run_part(pair.encoder, ["image_embeddings"], {"input_image": given})

    scale = np.float32([1, 1] if pads else [side / width, side / height])
    masks, qualities, low = run_part(
        pair.decoder,
        ["masks", "iou_predictions", "low_res_masks"],
        {
            "image_embeddings": embedding,
            "point_coords": (points * scale + np.float32([left, top]))[None],
            "point_labels": labels[None],
            "mask_input": np.zeros((1, 1, side // 4, side // 4), np.float32) if mask is None else mask,
            "has_mask_input": np.float32([mask is not None]),
            "orig_im_size": np.float32([side, side] if pads else [height, width]),
        },
    )
    best = choose(pair, qualities[0], len(labels))
    logits = masks[0, best, top : top + height, left : left + width] if pads else masks[0, best]
    low = low[:, [best]]
    prompt = 1 / (1 + np.exp(-low)) if pair.facts["mask_prompt"] == "probability" else low
    return Answer(logits > 0, float(qualities[0, best]), prompt)


def choose(pair: Pair, qualities: np.ndarray, points: int) -> int:
    """The index of the mask that the model takes; UserError where it is not among those that the decoder returns."""
    path, facts = pair.decoder.path, pair.facts
    if len(qualities) == 1:
        if "multimask" not in pair.decoder.facts and points > 2:  # exported with the released --return-single-mask
            raise UserError(
                f"{path} answers with its untrained mask to more than two points, a box's corners and the last -1 "
                "counted; export it again with scripts/export.py, or with four masks"
            )
        return 0
    if facts.get("use_stability_score") == "yes":
        raise UserError(f"{path} does not say which of its masks the model takes; export it without --return_all_masks")
    return 0 if facts.get("multimask") == "no" else 1 + int(qualities[1:].argmax())


def run_part(part: Part, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return part.session.run(names, given)
    except Exception as e:  # its errors have no class in common
        raise UserError(f"onnxruntime cannot compute {part.path} ({' '.join(str(e).split())}); export it again") from e


def normalised(pixels: np.ndarray, facts: Mapping[str, str]) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (1, 3, h, w)"""
    mean, std = (np.float64(facts[name].split()) for name in ("mean", "std"))
    return ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    main(parser, run)
