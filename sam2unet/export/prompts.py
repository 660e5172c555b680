"""Models for prompts as two ONNX files, an encoder and a decoder, checked against torch as they are written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..atomic import refuse_existing, sha256, write_atomic
from ..errors import UserError, print_line
from ..families.load import Checkpoint, assemble
from ..families.settings import find_recipe
from ..layers.sam_mask import MASKS
from ..masks.onnx_file import open_session
from ..models.sam_med2d import SAMMed2D
from ..prompts.framing import SAM_MEAN, SAM_STD, Framing, normalise_square
from ..prompts.rounds import to_mask_prompt
from ..recipe import Recipe
from ..weights.weight_files import NO_FILES, WeightFiles, WeightPaths, weight_files_to_facts
from .graph import LIMIT, write_graph
from .masks import pick_format
from .prompt_graphs import RELEASED, Decoder, FromPixels, GraphOptions, approximate_gelu

FORMAT, VERSION = "sam2unet-prompts", "1"
OPSET = 18  # the lowest that torch's exporter writes
ONNX_BYTES = 2**31  # that one file holds at most

# Prompts to check on: x and y in parts of the square's side, and labels.
PROMPTS = (
    ([(0.5, 0.5)], [1]),
    ([(0.5, 0.5), (0, 0)], [1, -1]),
    ([(0.5, 0.5), (0.2, 0.7), (0.6, 0.4), (0, 0)], [1, 0, 1, -1]),
    ([(0.2, 0.25), (0.8, 0.7)], [2, 3]),
    ([(0.4, 0.5), (0.2, 0.25), (0.8, 0.7)], [1, 2, 3]),
)

NamedTensors = dict[str, Tensor]


class Case(NamedTuple):
    """A picture as the encoder takes it, its embedding, and to each prompt, as the decoder takes it, torch's answer.

    There are several answers where rounding decides which mask is expected to be the best.
    """

    image: Tensor
    embedding: Tensor
    asked: list[tuple[NamedTensors, list[NamedTensors]]]


def run(
    found: Checkpoint,
    output: Path,
    pictures: Sequence[Image.Image],
    options: GraphOptions = RELEASED,
    weight_paths: WeightPaths = NO_FILES,
) -> None:
    """For `output` x.onnx write x_encoder.onnx and x_decoder.onnx, if they answer prompts as torch does.

    UserError where that is not so, and where anything is missing; then nothing is left behind.
    """
    if output.suffix == ".pt2":
        raise UserError(f"{output}: {found.family.title} is exported as .onnx alone, an encoder and a decoder")
    pick_format(output)
    check_opset(options.opset)
    encoder, decoder = (output.with_name(f"{output.stem}_{part}.onnx") for part in ("encoder", "decoder"))
    refuse_existing(encoder, decoder)
    model, weight_files = assemble(found, weight_paths)
    check_bytes(found, model)
    recipe = find_recipe(found)
    graph = Decoder(model.eval(), options, recipe.multimask).eval()
    print_line(f"answering prompts on {len(pictures)} images by torch, to compare with")
    cases = make_cases(model, graph, pictures, recipe.mask_prompt)
    if options.gelu_approximate:
        approximate_gelu(model)
    facts = {
        part: describe_prompt_export(found, weight_files, model, graph, recipe, part) for part in ("encoder", "decoder")
    }
    with write_atomic(encoder) as first, write_atomic(decoder) as second, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        print_line(f"exporting the encoder of {found.family.describe(found.shape)}; this can take minutes")
        write_encoder(model, options, facts["encoder"], first)
        print_line("exporting the decoder")
        write_decoder(graph, cases[0], facts["decoder"], second)
        first.flush()
        second.flush()
        print_line("comparing both with torch")
        difference = find_largest_error(Path(first.name), Path(second.name), cases, options)
        if not difference <= LIMIT:  # NaN too
            raise UserError(
                f"the exported model differs from torch by {difference:.2g} in probability, more than {LIMIT:g}; "
                f"{encoder} and {decoder} were not written"
            )
    for path, own in ((encoder, facts["encoder"]), (decoder, facts["decoder"])):
        print_line(f"{path}: {path.stat().st_size:,} bytes; {own['input']} -> {own['output']}")
    print_line(
        f"largest difference from torch over {len(cases)} images, {len(cases[0].asked)} prompts each: {difference:.2g}"
    )


def check_opset(opset: int | None) -> None:
    import onnx

    latest = onnx.defs.onnx_opset_version()
    if opset is not None and not OPSET <= opset <= latest:
        raise UserError(f"opset is {opset}; torch's exporter and the installed onnx know {OPSET} to {latest}")


def check_bytes(found: Checkpoint, model: SAMMed2D) -> None:
    count = sum(parameter.nbytes for parameter in model.image_encoder.parameters())
    if count >= ONNX_BYTES:
        raise UserError(
            f"{found.path}: the encoder of {found.family.describe(found.shape)} has {count:,} bytes of weights; an "
            f"ONNX file holds at most {ONNX_BYTES:,}"
        )


@torch.no_grad()
def make_cases(model: SAMMed2D, decoder: Decoder, pictures: Sequence[Image.Image], mask_prompt: str) -> list[Case]:
    """Each prompt without a mask, then with the answer to it as one, in the form that `mask_prompt` names."""
    options = decoder.options
    framing = Framing(model.side, padding=not options.use_preprocess)
    cases = []
    for picture in pictures:
        square, frame = framing.square(picture)
        image = normalise_square(square[None], [frame])
        case = Case(to_graph_pixels(picture) if options.use_preprocess else image, model.image_encoder(image), [])
        for places, labels in PROMPTS:
            mask = torch.zeros(1, 1, 4 * model.image_encoder.grid, 4 * model.image_encoder.grid)
            for has_mask in (0.0, 1.0):
                prompt = {
                    "point_coords": model.side * torch.tensor([places], dtype=torch.float32),
                    "point_labels": torch.tensor([labels], dtype=torch.float32),
                    "mask_input": mask,
                    "has_mask_input": torch.tensor([has_mask]),
                    "orig_im_size": torch.tensor([frame.height, frame.width], dtype=torch.float32),
                }
                answers = answers_of(decoder, case.embedding, prompt)
                case.asked.append((prompt, answers))
                mask = to_mask_prompt(answers[0]["low_res_masks"][:, -1:], mask_prompt)
        cases.append(case)
    return cases


def answers_of(decoder: Decoder, embedding: Tensor, prompt: NamedTensors) -> list[NamedTensors]:
    """All masks as one answer; else an answer for each mask that is as good as the best, but for `LIMIT`."""
    *given, size = prompt.values()
    low, qualities = decoder.predict(embedding, *given)
    returned = [slice(None)]
    if not decoder.options.return_all_masks:
        worse = qualities[0] < qualities[0, decoder.trained].max() - LIMIT
        returned = [slice(i, i + 1) for i in range(MASKS)[decoder.trained] if not worse[i]]  # NaN is not worse
    answers = [decoder.answer(low[:, part], qualities[:, part], size) for part in returned]
    return [dict(zip(decoder.outputs, answer, strict=True)) for answer in answers]


def to_graph_pixels(picture: Image.Image) -> Tensor:
    """RGB -> float (H, W, 3), blue, green, red, 0..255."""
    return torch.from_numpy(np.asarray(picture)[..., ::-1].astype(np.float32))


def write_encoder(model: SAMMed2D, options: GraphOptions, facts: Mapping[str, str], file: BinaryIO) -> None:
    graph, example, dynamic = model.image_encoder, torch.zeros(1, 3, model.side, model.side), {}
    if options.use_preprocess:
        graph, example = FromPixels(graph, model.side).eval(), torch.zeros(model.side + 5, model.side + 2, 3)
        dynamic = {0: torch.export.Dim("height"), 1: torch.export.Dim("width")}
    write_graph(graph, (example,), ["input_image"], ["image_embeddings"], (dynamic,), facts, file, options.opset)


def write_decoder(graph: Decoder, case: Case, facts: Mapping[str, str], file: BinaryIO) -> None:
    prompt = case.asked[-1][0]
    points = {1: torch.export.Dim("points")}
    dynamic = ({}, *(points if name.startswith("point_") else {} for name in prompt))
    names, examples = ["image_embeddings", *prompt], (case.embedding, *prompt.values())
    write_graph(graph, examples, names, graph.outputs, dynamic, facts, file, graph.options.opset)


def find_largest_error(encoder: Path, decoder: Path, cases: Sequence[Case], options: GraphOptions) -> float:
    """Of masks in probability, and of qualities where the model itself expects them; all through both files."""
    encode, decode = open_session(encoder), open_session(decoder)
    names = [output.name for output in decode.get_outputs()]
    worst = []
    for case in cases:
        (embedding,) = encode.run(None, {"input_image": case.image.numpy()})
        for prompt, answers in case.asked:
            given = {"image_embeddings": embedding} | {name: t.numpy() for name, t in prompt.items()}
            found = dict(zip(names, map(torch.from_numpy, decode.run(None, given)), strict=True))
            worst.append(torch.stack([compare_answers(found, wanted, options) for wanted in answers]).min())
    return torch.stack(worst).max().item()


def compare_answers(found: NamedTensors, wanted: NamedTensors, options: GraphOptions) -> Tensor:
    """As `find_largest_error`, of one answer."""
    parts = [found[name].sigmoid() - wanted[name].sigmoid() for name in ("masks", "low_res_masks")]
    if not options.use_stability_score:  # a pixel more or less would be a difference
        parts.append(found["iou_predictions"] - wanted["iou_predictions"])
    return torch.stack([part.abs().max() for part in parts]).max()


def describe_prompt_export(
    found: Checkpoint, weight_files: WeightFiles, model: SAMMed2D, decoder: Decoder, recipe: Recipe, part: str
) -> dict[str, str]:
    """All that a program needs to know to use the file, and where the weights are from."""
    side, grid, options = model.side, model.image_encoder.grid, decoder.options
    order = "red green blue" if recipe.rgb else "blue green red"
    prompt = "probabilities" if recipe.mask_prompt == "probability" else recipe.mask_prompt
    embedding = f"image_embeddings float32 (1, 256, {grid}, {grid})"
    if part == "encoder":
        shape = f"(height, width, 3), {order}, 0..255" if options.use_preprocess else f"(1, 3, {side}, {side})"
        given, made = f"input_image float32 {shape}", embedding
    else:
        given = (
            f"{embedding}, point_coords (1, points, 2), point_labels (1, points), mask_input (1, 1, {4 * grid}, "
            f"{4 * grid}) {prompt}, has_mask_input (1,), orig_im_size (2,) height width"
        )
        made = ", ".join(decoder.outputs)
    stretch = f"stretched to {side}x{side} by nearest pixels, floor(i * length / {side})"
    pad = f"; smaller on both sides than {side}: as it is, centred, 0 around it after normalisation"
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "part": part,
        "model": found.family.name,
        **found.shape.to_facts(),
        "input": given,
        "output": made,
        "preprocessing": "none" if options.use_preprocess else f"{order}, {stretch}{pad}; minus mean, by std",
        "mean": " ".join(map(str, SAM_MEAN)),
        "std": " ".join(map(str, SAM_STD)),
        "rgb": "yes" if recipe.rgb else "no",
        "multimask": "yes" if recipe.multimask else "no",
        "mask_prompt": recipe.mask_prompt,
        **{name: "yes" if value else "no" for name, value in asdict(options).items() if name != "opset"},
        "checkpoint": found.path.name,
        "checkpoint_sha256": sha256(found.path),
    }
    return facts | weight_files_to_facts(weight_files)
