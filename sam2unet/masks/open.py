"""From a checkpoint of any kind to what predicts with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError, print_line
from ..families.load import Checkpoint, open_model, read_checkpoint
from ..families.settings import find_trained_size
from ..families.table import check_size
from ..runtime.device import can_compile, pick_half_type
from ..weights.weight_files import NO_FILES, WeightPaths
from .faster import can_pack, fold_, halve_, pack_, pad_batches
from .onnx_file import onnx_predictor
from .predictor import PredictOptions, Predictor


def read_model_file(path: Path) -> Path | Checkpoint:
    """A checkpoint read; the path of an .onnx as it is. UserError for a file of another kind."""
    if path.suffix == ".pt2":
        raise UserError(f"{path}: reading a .pt2 can run code; give the checkpoint, or an .onnx made of it")
    return path if path.suffix == ".onnx" else read_checkpoint(path)


def open_predictor(
    checkpoint: Path | Checkpoint,
    device: torch.device,
    weight_paths: WeightPaths = NO_FILES,
    way: PredictOptions = PredictOptions(),
) -> Predictor:
    """UserError for a file of another kind or a size that the model cannot take."""
    found = read_model_file(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    if isinstance(found, Path):
        return onnx_predictor(found, device, weight_paths, way)
    size = find_trained_size(found) if way.size is None else way.size
    check_size(found.family, size)
    return build_predictor(open_model(found, weight_paths, device), size, way)


def build_predictor(model: nn.Module, size: int, way: PredictOptions) -> Predictor:
    """For a model in evaluation mode, which is changed in place where `way` says so."""
    predictor = Predictor.of(model, size, amp=way.amp, averaging=way.averaging, tile=way.tile)
    if way.fold:
        fold_(model)
    if way.amp != "off":
        halve_(model, way.amp)
    if way.compile:
        model.compile(dynamic=False)
        predictor.forward = pad_batches(predictor.forward)
    elif way.fold and can_pack(predictor.device, way.amp):
        pack_(model)
    return predictor


def choose_fast_options(
    device: torch.device, way: PredictOptions, batch_size: int | None
) -> tuple[PredictOptions, int]:
    """`way` and `batch_size` with what suits the device turned on, after saying what that is."""
    amp = pick_half_type(device) if way.amp == "auto" else way.amp
    way = replace(way, amp=amp, fold=True, compile=way.compile or can_compile(device))
    batch_size = batch_size or (32 if device.type == "cuda" else 1)
    also = "BatchNorm folded" + ", weights packed" * (can_pack(device, amp) and not way.compile)
    print_line(f"fast: --amp {amp}{' --compile' * way.compile} --batch_size {batch_size}; {also}")
    return way, batch_size
