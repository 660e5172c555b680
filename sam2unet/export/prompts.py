"""Exports models for prompts as two ONNX files, an encoder and a decoder, and compares their results with PyTorch."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..atomic import refuse_existing, sha256, write_atomic
from ..choices import LOWEST_OPSET
from ..errors import UserError, print_line
from ..families.load import Checkpoint, assemble
from ..families.settings import get_settings
from ..layers.sam_mask import MASKS
from ..masks.prediction.onnx_file import open_session
from ..models.sam_med2d import SAMMed2D
from ..prompts.framing import SAM_MEAN, SAM_STD, Framing, normalise_square
from ..prompts.rounds import to_mask_prompt
from ..recipe import Recipe
from ..weights.weight_files import NO_FILES, WeightFiles, WeightPaths, weight_files_to_facts
from .graph import LIMIT, check_difference, write_graph
from .masks import pick_format
from .prompt_graphs import RELEASED, Decoder, FromPixels, GraphOptions, ReverseColours, approximate_gelu_
from .x_anylabeling import choose_config_path, write_client_config

FORMAT, VERSION = "sam2unet-prompts", "1"
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
    """A picture and prompts for the comparison of the files with PyTorch."""

    image: Tensor  # the input of the encoder
    embedding: Tensor  # PyTorch's output of the encoder
    # inputs of the decoder, each with PyTorch's answers. There are several answers if rounding decides which mask
    # has the best predicted IoU.
    prompts: list[tuple[NamedTensors, list[NamedTensors]]]


def run(
    checkpoint: Checkpoint,
    output: Path,
    pictures: Sequence[Image.Image],
    options: GraphOptions = RELEASED,
    weight_paths: WeightPaths = NO_FILES,
    client: str | None = None,
) -> None:
    """Writes x_encoder.onnx and x_decoder.onnx for an `output` x.onnx. UserError, and no file, if masks differ.

    For the `client` "x-anylabeling", the encoder takes red first, and x.yaml is the file that the client loads.
    """
    encoder, decoder = choose_paths(checkpoint, output, options.opset)
    config = None if client is None else choose_config_path(output, options)
    model, weight_files = assemble(checkpoint, weight_paths)
    assert isinstance(model, SAMMed2D)
    check_bytes(checkpoint, model)
    recipe = get_settings(model)
    if config is not None:
        options = replace(options, reverse_colours=not recipe.rgb)
    graph = Decoder(model.eval(), options, recipe.multimask).eval()
    print_line(f"answering prompts for {len(pictures)} images with torch, for the comparison")
    cases = make_cases(model, graph, pictures, recipe.mask_prompt)
    if options.gelu_approximate:
        approximate_gelu_(model)
    facts = {
        part: describe_prompt_export(checkpoint, weight_files, model, graph, recipe, part)
        for part in ("encoder", "decoder")
    }
    with ExitStack() as files, warnings.catch_warnings():
        first, second = (files.enter_context(write_atomic(path)) for path in (encoder, decoder))
        if config is not None:
            write_client_config(files.enter_context(write_atomic(config)), encoder, decoder, checkpoint, model.side)
        warnings.simplefilter("ignore")  # about internals of the exporter
        print_line(f"exporting the encoder of {checkpoint.family.describe(checkpoint.shape)}; this can take minutes")
        write_encoder(model, options, facts["encoder"], first)
        print_line("exporting the decoder")
        write_decoder(graph, cases[0], facts["decoder"], second)
        first.flush()
        second.flush()
        print_line("comparing both with torch")
        difference = find_largest_error(Path(first.name), Path(second.name), cases, options)
        check_difference(difference, encoder, decoder)
    print_export({encoder: facts["encoder"], decoder: facts["decoder"]}, config, cases, difference)


def print_export(
    facts: Mapping[Path, Mapping[str, str]], config: Path | None, cases: Sequence[Case], difference: float
) -> None:
    for path, part in facts.items():
        print_line(f"{path}: {path.stat().st_size:,} bytes; {part['input']} -> {part['output']}")
    if config is not None:
        print_line(f"{config}: load this file in X-AnyLabeling with Load Custom Model")
    count = f"{len(cases)} images, {len(cases[0].prompts)} prompts each"
    print_line(f"largest difference from torch over {count}: {difference:.2g}")


def choose_paths(checkpoint: Checkpoint, output: Path, opset: int | None) -> tuple[Path, Path]:
    """Returns the paths of the encoder and the decoder. Raises UserError for a path or an opset that does not work."""
    if output.suffix == ".pt2":
        raise UserError(f"{output}: {checkpoint.family.title} is exported only as .onnx, an encoder and a decoder")
    pick_format(output)
    import onnx  # `pick_format` checks that it is installed

    latest = onnx.defs.onnx_opset_version()
    if opset is not None and not LOWEST_OPSET <= opset <= latest:
        raise UserError(f"opset is {opset}; torch's exporter and the installed onnx know {LOWEST_OPSET} to {latest}")
    encoder, decoder = (output.with_name(f"{output.stem}_{part}.onnx") for part in ("encoder", "decoder"))
    refuse_existing(encoder, decoder)
    return encoder, decoder


def check_bytes(checkpoint: Checkpoint, model: SAMMed2D) -> None:
    count = sum(parameter.nbytes for parameter in model.image_encoder.parameters())
    if count >= ONNX_BYTES:
        raise UserError(
            f"{checkpoint.path}: the encoder of {checkpoint.family.describe(checkpoint.shape)} has {count:,} bytes of "
            f"weights; an ONNX file holds at most {ONNX_BYTES:,}"
        )


@torch.no_grad()
def make_cases(model: SAMMed2D, decoder: Decoder, pictures: Sequence[Image.Image], mask_prompt: str) -> list[Case]:
    """Returns a case for each picture. Each prompt is used without a mask, and then with the mask of its own answer."""
    options = decoder.options
    # A graph with reversed colours takes images without padding: the padding of the training is not 0 for it.
    framing = Framing(model.side, padding=not (options.use_preprocess or options.reverse_colours))
    cases = []
    for picture in pictures:
        square, frame = framing.square(picture)
        embedding = model.image_encoder(normalise_square(square[None], [frame]))
        colours = square.flip(0) if options.reverse_colours else square
        image = normalise_square(colours[None], [frame])
        pixels = torch.from_numpy(np.asarray(picture)[..., ::-1].astype(np.float32))  # blue, green, red in 0..255
        case = Case(pixels if options.use_preprocess else image, embedding, [])
        for points, labels in PROMPTS:
            mask = torch.zeros(1, 1, 4 * model.image_encoder.grid, 4 * model.image_encoder.grid)
            for has_mask in (0.0, 1.0):
                prompt = {
                    "point_coords": model.side * torch.tensor([points], dtype=torch.float32),
                    "point_labels": torch.tensor([labels], dtype=torch.float32),
                    "mask_input": mask,
                    "has_mask_input": torch.tensor([has_mask]),
                    "orig_im_size": torch.tensor([frame.height, frame.width], dtype=torch.float32),
                }
                answers = list_answers(decoder, case.embedding, prompt)
                case.prompts.append((prompt, answers))
                mask = to_mask_prompt(answers[0]["low_res_masks"][:, -1:], mask_prompt)
        cases.append(case)
    return cases


def list_answers(decoder: Decoder, embedding: Tensor, prompt: NamedTensors) -> list[NamedTensors]:
    """Returns all masks as one answer, or an answer for each mask whose predicted IoU is within `LIMIT` of the best."""
    *inputs, size = prompt.values()
    low, qualities = decoder.predict(embedding, *inputs)
    returned = [slice(None)]
    if not decoder.options.return_all_masks:
        worse = qualities[0] < qualities[0, decoder.trained].max() - LIMIT
        returned = [slice(i, i + 1) for i in range(MASKS)[decoder.trained] if not worse[i]]  # NaN is not worse
    answers = [decoder.answer(low[:, part], qualities[:, part], size) for part in returned]
    return [dict(zip(decoder.outputs, answer, strict=True)) for answer in answers]


def write_encoder(model: SAMMed2D, options: GraphOptions, facts: Mapping[str, str], file: BinaryIO) -> None:
    graph: nn.Module = model.image_encoder
    example, dynamic = torch.zeros(1, 3, model.side, model.side), {}
    if options.reverse_colours:
        graph = ReverseColours(graph).eval()
    if options.use_preprocess:
        graph, example = FromPixels(graph, model.side).eval(), torch.zeros(model.side + 5, model.side + 2, 3)
        dynamic = {0: torch.export.Dim("height"), 1: torch.export.Dim("width")}
    write_graph(graph, (example,), ["input_image"], ["image_embeddings"], (dynamic,), facts, file, options.opset)


def write_decoder(graph: Decoder, case: Case, facts: Mapping[str, str], file: BinaryIO) -> None:
    prompt = case.prompts[-1][0]
    points = {1: torch.export.Dim("points")}
    dynamic = ({}, *(points if name.startswith("point_") else {} for name in prompt))
    names, examples = ["image_embeddings", *prompt], (case.embedding, *prompt.values())
    write_graph(graph, examples, names, graph.outputs, dynamic, facts, file, graph.options.opset)


def find_largest_error(encoder: Path, decoder: Path, cases: Sequence[Case], options: GraphOptions) -> float:
    """Returns the largest difference of the two files from PyTorch, in probability and in predicted IoU."""
    encode, decode = open_session(encoder), open_session(decoder)
    names = [output.name for output in decode.get_outputs()]
    worst = []
    for case in cases:
        (embedding,) = encode.run(None, {"input_image": case.image.numpy()})
        for prompt, answers in case.prompts:
            inputs = {"image_embeddings": embedding} | {name: t.numpy() for name, t in prompt.items()}
            outputs = dict(zip(names, map(torch.from_numpy, decode.run(None, inputs)), strict=True))
            worst.append(torch.stack([compare_answers(outputs, answer, options) for answer in answers]).min())
    return torch.stack(worst).max().item()


def compare_answers(outputs: NamedTensors, answer: NamedTensors, options: GraphOptions) -> Tensor:
    """Returns the largest difference of one answer, as in `find_largest_error`."""
    parts = [outputs[name].sigmoid() - answer[name].sigmoid() for name in ("masks", "low_res_masks")]
    if not options.use_stability_score:  # stability scores jump with single pixels
        parts.append(outputs["iou_predictions"] - answer["iou_predictions"])
    return torch.stack([part.abs().max() for part in parts]).max()


def describe_prompt_export(
    checkpoint: Checkpoint, weight_files: WeightFiles, model: SAMMed2D, decoder: Decoder, recipe: Recipe, part: str
) -> dict[str, str]:
    """Returns what a program must know to use the file, and the origin of the weights."""
    side, grid, options = model.side, model.image_encoder.grid, decoder.options
    rgb = recipe.rgb != options.reverse_colours  # of the input
    order = "red green blue" if rgb else "blue green red"
    prompt = "probabilities" if recipe.mask_prompt == "probability" else recipe.mask_prompt
    embedding = f"image_embeddings float32 (1, 256, {grid}, {grid})"
    if part == "encoder":
        shape = f"(height, width, 3), {order}, 0..255" if options.use_preprocess else f"(1, 3, {side}, {side})"
        inputs, outputs = f"input_image float32 {shape}", embedding
    else:
        inputs = (
            f"{embedding}, point_coords (1, points, 2), point_labels (1, points), mask_input (1, 1, {4 * grid}, "
            f"{4 * grid}) {prompt}, has_mask_input (1,), orig_im_size (2,) height width"
        )
        outputs = ", ".join(decoder.outputs)
    stretch = f"stretched to {side}x{side} by nearest pixels, floor(i * length / {side})"
    more = f"; smaller on both sides than {side}: as it is, centred, 0 around it after normalisation"
    if options.reverse_colours:
        more = "; the graph reverses the colours, because the weights were trained with the other order"
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "part": part,
        "model": checkpoint.family.name,
        **checkpoint.shape.to_facts(),
        "input": inputs,
        "output": outputs,
        "preprocessing": "none" if options.use_preprocess else f"{order}, {stretch}{more}; minus mean, by std",
        "mean": " ".join(map(str, SAM_MEAN)),
        "std": " ".join(map(str, SAM_STD)),
        "rgb": "yes" if rgb else "no",
        "multimask": "yes" if recipe.multimask else "no",
        "mask_prompt": recipe.mask_prompt,
        **{name: "yes" if value else "no" for name, value in asdict(options).items() if name != "opset"},
        "checkpoint": checkpoint.path.name,
        "checkpoint_sha256": sha256(checkpoint.path),
    }
    return facts | weight_files_to_facts(weight_files)
