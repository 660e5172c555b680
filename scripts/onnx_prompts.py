"""Predict the mask of a prompt with the two ONNX files of a SAM-Med2D. The mask is a PNG, 0 and 255.

The files are those of export.py or of the released exporter. This script is an example that you can copy: it computes
with numpy, Pillow and onnxruntime only. It prepares images as the training did, so the mask equals that of Prompter and
of test.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sam2unet.atomic import read_start, refuse_existing, write_atomic
from sam2unet.cli import Parser, main
from sam2unet.data.images.reading import read_image
from sam2unet.errors import UserError, print_line

# Facts about the released files. The files do not contain them.
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
    p.add_argument("--image", type=Path, required=True, help="the image, for example a slice of a scan")
    p.add_argument(
        "--points", type=parse_numbers, nargs="+", default=[], metavar="X,Y", help="points in pixels of the image"
    )
    p.add_argument(
        "--labels", type=int, nargs="+", choices=(0, 1), help="for each point, 1: object, 0: background; default: 1"
    )
    p.add_argument(
        "--box", type=parse_numbers, metavar="X0,Y0,X1,Y1", help="box around the object; X1 and Y1 are exclusive"
    )
    p.add_argument(
        "--mask", type=Path, metavar="FILE", help="an earlier answer, from --save_prompt; the model corrects it"
    )
    p.add_argument("--output", type=Path, required=True, help="PNG file for the mask")
    p.add_argument(
        "--save_prompt", type=Path, metavar="FILE", help=".npy file for the answer, for --mask of the next call"
    )
    return p


def parse_numbers(text: str) -> list[float]:
    """`1,2.5` -> [1.0, 2.5]"""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers with commas between them") from e


def run(args: argparse.Namespace) -> None:
    points, labels = make_prompt(args.points, args.labels, args.box, args.mask is not None)
    refuse_existing(args.output, *filter(None, [args.save_prompt]))
    if args.save_prompt == args.output:
        raise UserError(f"--save_prompt and --output are both {args.output}; give two different names")
    pair = open_pair(args.encoder, args.decoder)
    mask = None if args.mask is None else read_mask(args.mask, pair.side // 4)
    answer = predict(pair, np.asarray(read_image(args.image)), points, labels, mask)
    with write_atomic(args.output) as file:
        Image.fromarray(answer.mask.astype(np.uint8) * 255).save(file, "PNG")
    if args.save_prompt is not None:
        with write_atomic(args.save_prompt) as file:
            np.save(file, answer.prompt)
    print_line(f"{args.output}: {answer.mask.sum():,} of {answer.mask.size:,} pixels, quality {answer.quality:.3f}")


def make_prompt(
    points: list, labels: list[int] | None, box: list[float] | None, has_mask: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns points (N, 2) and labels (N,) for the decoder.

    A box becomes two points with the labels 2 and 3. Points without a box get one more point with the label -1. Its
    coordinates have no effect. Released decoders need this point. Decoders of export.py add it if it is missing.

    Raises:
        UserError: there is no prompt, or a number does not fit.
    """
    labels = [1] * len(points) if labels is None else labels
    if not points and box is None and not has_mask:
        raise UserError("there is no prompt; give --points, --box or --mask")
    if len(labels) != len(points):
        raise UserError(f"{len(points)} points have {len(labels)} labels; give one label per point")
    if any(len(point) != 2 for point in points) or box is not None and len(box) != 4:
        raise UserError("a point must be X,Y and a box X0,Y0,X1,Y1")
    coords = np.array([*points, *([] if box is None else [box[:2], box[2:]])]).reshape(-1, 2)
    if not (np.abs(coords) < 1e9).all():  # is False for NaN, too
        raise UserError("--points or --box has a value that is not a number or is too large; give pixels of the image")
    kinds = [2, 3] if box is not None else [-1] if points else []
    if -1 in kinds:
        coords = np.concatenate([coords, np.zeros((1, 2))])
    return coords.astype(np.float32), np.array([*labels, *kinds], np.float32)


class ModelPart(NamedTuple):
    """An opened ONNX file."""

    path: Path
    session: object
    shapes: dict[str, list]  # of the inputs
    facts: dict[str, str]


class ModelPair(NamedTuple):
    """The two parts of a model."""

    encoder: ModelPart
    decoder: ModelPart
    side: int  # of the square that the encoder takes, in pixels
    facts: Mapping[str, str]


def open_pair(encoder: Path, decoder: Path) -> ModelPair:
    """Opens both files. Raises UserError if they are not the two parts of one model."""
    parts = first, second = open_part(encoder, "encoder"), open_part(decoder, "decoder")
    side = second.shapes["mask_input"][-1]
    if not isinstance(side, int) or first.shapes["input_image"][2:] not in ([4 * side, 4 * side], [3]):
        raise UserError(f"{encoder} and {decoder} are for images of different sizes; export both together")
    if len({part.facts["checkpoint_sha256"] for part in parts if "checkpoint_sha256" in part.facts}) > 1:
        raise UserError(f"{encoder} and {decoder} are from different checkpoints; export both together")
    if second.facts.get("resize_longest_side") == "yes":
        raise UserError(f"{decoder} needs images that are prepared as for SAM; export it without --resize_longest_side")
    return ModelPair(first, second, 4 * side, RELEASED | first.facts | second.facts)


def open_part(path: Path, part: str) -> ModelPart:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise UserError("onnxruntime is not installed: pip install onnxruntime") from e
    read_start(path, 0)  # raises UserError if the file cannot be read
    options = ort.SessionOptions()
    options.log_severity_level = 4  # no log: the exceptions contain the messages
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # the errors of onnxruntime have no common class
        raise UserError(f"{path} is not a complete ONNX file; export it again") from e
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    if list(shapes) != INPUTS[part]:
        raise UserError(f"{path} is not the {part} of a SAM-Med2D; its inputs are {', '.join(shapes)}")
    return ModelPart(path, session, shapes, session.get_modelmeta().custom_metadata_map)


def read_mask(path: Path, side: int) -> np.ndarray:
    """Reads a mask prompt, float32 (1, 1, side, side)."""
    try:
        mask = np.load(path, allow_pickle=False)
        mask = mask.astype(np.float32).reshape(mask.shape[-3:])[None]
    except Exception as e:  # the file can have any content
        raise UserError(f"cannot read {path}; give a .npy file from --save_prompt") from e
    if mask.shape != (1, 1, side, side) or not np.isfinite(mask).all():
        raise UserError(
            f"{path} is not an array (1, 1, {side}, {side}) of finite numbers; give a .npy file from --save_prompt"
        )
    return mask


class Answer(NamedTuple):
    mask: np.ndarray  # bool (h, w)
    quality: float  # the IoU that the model expects
    prompt: np.ndarray  # float32 (1, 1, 4g, 4g), g side of the image embedding; a mask prompt for the next call


def predict(
    pair: ModelPair, image: np.ndarray, points: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None
) -> Answer:
    """Predicts one mask for an image, uint8 RGB (h, w, 3), and a prompt in pixels of the image.

    For several prompts in one image, compute the embedding once and keep it.
    """
    (height, width), side = image.shape[:2], pair.side
    pixels = image if pair.facts["rgb"] == "yes" else image[..., ::-1]  # the order of colours of the training
    prepares = len(pair.encoder.shapes["input_image"]) == 3  # exported with --use_preprocess
    pads = height < side and width < side and not prepares
    top, left = ((side - height) // 2, (side - width) // 2) if pads else (0, 0)
    if prepares:
        square = pixels.astype(np.float32)
    elif pads:  # put a small image in the middle; the other pixels are 0 for the network
        square = np.zeros((1, 3, side, side), np.float32) + find_padding(pair.facts)
        square[..., top : top + height, left : left + width] = normalise(pixels, pair.facts)
    else:  # resize any other image; take the nearest pixels
        steps = np.arange(side)
        square = normalise(pixels[(steps * height // side)[:, None], steps * width // side], pair.facts)
    (embedding,) = run_part(pair.encoder, ["image_embeddings"], {"input_image": square})

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
    index = choose_mask(pair, qualities[0], len(labels))
    logits = masks[0, index, top : top + height, left : left + width] if pads else masks[0, index]
    low = low[:, [index]]
    prompt = 1 / (1 + np.exp(-low)) if pair.facts["mask_prompt"] == "probability" else low
    return Answer(logits > 0, float(qualities[0, index]), prompt)


def choose_mask(pair: ModelPair, qualities: np.ndarray, points: int) -> int:
    """Returns the index of the mask that SAM-Med2D uses, among the masks that the decoder returns.

    Raises:
        UserError: the decoder does not return this mask.
    """
    path, facts = pair.decoder.path, pair.facts
    if len(qualities) == 1:
        if "multimask" not in pair.decoder.facts and points > 2:  # exported with the released --return-single-mask
            raise UserError(
                f"{path} returns an untrained mask for more than two points (a box counts as two, and the final point "
                "with the label -1 as one); export it again with sam2unet export, or with four masks"
            )
        return 0
    if facts.get("use_stability_score") == "yes":
        raise UserError(f"{path} does not say which mask the model uses; export it without --return_all_masks")
    return 0 if facts.get("multimask") == "no" else 1 + int(qualities[1:].argmax())


def run_part(part: ModelPart, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return part.session.run(names, inputs)
    except Exception as e:  # the errors of onnxruntime have no common class
        raise UserError(f"onnxruntime cannot compute {part.path} ({' '.join(str(e).split())}); export it again") from e


def find_padding(facts: Mapping[str, str]) -> np.ndarray:
    """Returns the value of each channel, float32 (3, 1, 1), that the graph turns into 0."""
    mean, std = (np.float64(facts[name].split()) for name in ("mean", "std"))
    is_reversed = facts.get("reverse_colours") == "yes"  # the graph exchanges the channels and their constants
    return np.float32((mean[::-1] - mean) / std * is_reversed)[:, None, None]


def normalise(pixels: np.ndarray, facts: Mapping[str, str]) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (1, 3, h, w)"""
    mean, std = (np.float64(facts[name].split()) for name in ("mean", "std"))
    return ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    main(parser, run)
