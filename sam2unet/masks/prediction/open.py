"""Opens a checkpoint or an ONNX file as a `Predictor`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...errors import UserError, print_line
from ...families.load import Checkpoint, open_model, read_checkpoint
from ...families.settings import find_recipe
from ...families.table import check_size
from ...layers.windows import use_padded_windows_
from ...runtime.device import can_compile, pick_half_type
from ...weights.weight_files import NO_FILES, WeightPaths
from .calibration import read_temperature
from .faster import cache_positions_, can_pack, fold_, halve_, pack_, pad_batches
from .onnx_file import onnx_predictor
from .options import PredictOptions
from .predictor import Predictor


def read_model_file(path: Path) -> Path | Checkpoint:
    """Reads a checkpoint, or returns the path of an .onnx file. UserError for any other file."""
    if path.suffix == ".pt2":
        raise UserError(f"{path}: reading a .pt2 can run code; give the checkpoint or an .onnx file")
    return path if path.suffix == ".onnx" else read_checkpoint(path)


def open_predictor(
    model_file: Path | Checkpoint,
    device: torch.device,
    weight_paths: WeightPaths = NO_FILES,
    options: PredictOptions = PredictOptions(),
) -> Predictor:
    """Returns a predictor for a checkpoint or an .onnx file.

    Raises:
        UserError: it is another kind of file, or the model cannot take the size.
    """
    checkpoint = read_model_file(model_file) if isinstance(model_file, Path) else model_file
    if isinstance(checkpoint, Path):
        return onnx_predictor(checkpoint, device, weight_paths, options)
    recipe = find_recipe(checkpoint, size=options.size)
    check_size(checkpoint.family, recipe.size)
    return build_predictor(open_model(checkpoint, weight_paths, device, recipe), recipe.size, options)


def open_predictors(
    model_files: Sequence[Path | Checkpoint], device: torch.device, weight_paths: WeightPaths, options: PredictOptions
) -> Predictor:
    """Returns a predictor that averages the probabilities of all models.

    Raises UserError as `open_predictor` does, if the models cannot be averaged, and if `options.calibrated` is set but
    a checkpoint has no temperature.
    """
    predictors = [open_predictor(file, device, weight_paths, options) for file in model_files]
    for file, predictor in zip(model_files, predictors, strict=True):
        if options.calibrated:
            predictor.scale_logits(read_temperature(file if isinstance(file, Path) else file.path))
    first, *others = predictors
    first.add_models(others)
    return first


def build_predictor(model: nn.Module, size: int, options: PredictOptions) -> Predictor:
    """Returns a predictor for a model in evaluation mode, which it changes in place."""
    predictor = Predictor.from_model(
        model, size, options.exact, amp=options.amp, averaging=options.averaging, tile=options.tile
    )
    if options.exact:
        use_padded_windows_(model)
    if options.fold:
        fold_(model)
    if options.amp != "off":
        halve_(model, options.amp)
    if options.compile:
        model.compile(dynamic=False)
        predictor.forward = pad_batches(predictor.forward)
        predictor.linear_layers = nullcontext
        return predictor
    cache_positions_(model)
    if options.fold and can_pack(predictor.device, options.amp):
        pack_(model)
        predictor.linear_layers = nullcontext
    predictor.in_parallel = predictor.device.type == "cpu" and not options.exact
    return predictor


def choose_fast_options(
    device: torch.device, options: PredictOptions, batch_size: int | None
) -> tuple[PredictOptions, int]:
    """Returns `options` and `batch_size` with the fastest settings for the device, and prints the changes."""
    amp = pick_half_type(device) if options.amp == "auto" else options.amp
    options = replace(options, amp=amp, fold=True, compile=options.compile or can_compile(device))
    batch_size = batch_size or (32 if device.type == "cuda" else 1)
    also = "BatchNorm folded" + ", weights packed" * (can_pack(device, amp) and not options.compile)
    print_line(f"fast: --amp {amp}{' --compile' * options.compile} --batch_size {batch_size}; {also}")
    return options, batch_size
