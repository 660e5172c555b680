"""Predicts with exported ONNX files through onnxruntime, without the code of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...atomic import read_start
from ...classes import Classes
from ...errors import UserError, warn
from ...limits import check_numbers, shorten
from ...runtime.versions import import_extra
from ...weights.weight_files import WeightPaths
from .predictor import Predictor

if TYPE_CHECKING:
    import onnxruntime as ort

    from .options import PredictOptions

FORMAT, VERSION = "sam2unet-export", "1"


class OnnxForward:
    """Calls an exported model with a tensor (B, ...) on any device. The output is on the device of the model.

    Raises UserError if onnxruntime is not installed, or the file is damaged or of another project.

    Attributes:
        facts: the metadata of the file, from `describe_mask_export`.
        size: the input side, which is fixed.
        classes: the classes of the model, or None for foreground and background.
        whole: the graph takes uint8 photographs and returns uint8 maps. False: normalised images and logits.
        device: a GPU if onnxruntime can use it, else the CPU.
    """

    def __init__(self, path: Path, device: torch.device):
        ort = import_extra("onnxruntime", f"{path} needs onnxruntime, which is not installed: pip install onnxruntime")
        read_start(path, 0)
        on_gpu = device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers()
        if device.type != "cpu" and not on_gpu:
            warn(f"onnxruntime cannot use {device} here, {path.name} runs on the CPU (pip install onnxruntime-gpu)")
        gpu = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if on_gpu else []
        self.path, self.session = path, open_session(path, [*gpu, "CPUExecutionProvider"])
        self.facts = self.session.get_modelmeta().custom_metadata_map
        if "part" in self.facts:
            raise UserError(
                f"{path} is the {self.facts['part']} of a model for prompts; scripts/onnx_prompts.py runs it"
            )
        if self.facts.get("format") != FORMAT:
            raise UserError(f"{path} is not a model that sam2unet export made; give such a file or a checkpoint")
        if (version := self.facts.get("version")) != VERSION:
            raise UserError(f"{path} has version {shorten(version)} of the format, known here is {VERSION}; update")
        self.classes = read_classes(self.facts["classes"], path) if "classes" in self.facts else None
        self.size, self.whole = self.check_graph(path), self.facts["whole"] == "yes"
        self.device = device if on_gpu else torch.device("cpu")

    def check_graph(self, path: Path) -> int:
        """Returns the input side of the graph. UserError if the graph does not match the metadata of the file."""
        ports = [*self.session.get_inputs(), *self.session.get_outputs()]
        size = ports[0].shape[2] if ports and len(ports[0].shape) == 4 else None
        channels = len(self.classes.items) if self.classes else 1
        wanted = {
            "no": [("tensor(float)", [3, size, size]), ("tensor(float)", [channels, size, size])],
            "yes": [("tensor(uint8)", [size, size, 3]), ("tensor(uint8)", [size, size])],
        }
        stated_size, whole = self.facts.get("size"), self.facts.get("whole")
        if (
            not isinstance(size, int)
            or stated_size != str(size)
            or [(port.type, port.shape[1:]) for port in ports] != wanted.get(whole)
        ):
            actual = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports)
            count = f" and {channels} classes" if self.classes else ""
            raise UserError(
                f"{path} is damaged: it says that it has size {shorten(stated_size)} and whole {shorten(whole)}{count}"
                f", but its inputs and outputs are {shorten(actual, 200)}; export it again"
            )
        check_numbers({"size": size}, path)
        return size

    def __call__(self, images: Tensor) -> Tensor:
        (name,) = (port.name for port in self.session.get_inputs())
        try:
            (output,) = self.session.run(None, {name: images.cpu().contiguous().numpy()})
        except Exception as e:  # onnxruntime raises errors of many classes
            why = shorten(" ".join(str(e).split()), 200)
            raise UserError(f"onnxruntime cannot compute {self.path} ({why}); export it again") from e
        return torch.from_numpy(output).to(self.device)


def read_classes(text: str, path: Path) -> Classes:
    """Reads the JSON in the metadata of a file. Raises UserError for any other text."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise UserError(f"{path} is damaged: its classes are {shorten(text)}, wanted JSON; export it again")
    return Classes.from_entries(entries, path)


def open_session(path: Path, providers: Sequence[object] = ("CPUExecutionProvider",)) -> ort.InferenceSession:
    """Opens an ONNX file with as many threads as torch uses. UserError for a damaged file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by default all cores, whatever OMP_NUM_THREADS says
    options.log_severity_level = 4  # fatal errors only; exceptions report the others
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as e:  # onnxruntime raises errors of many classes
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is not an ONNX file, or only a part of one; compare its size "
            "with the original or export it again"
        ) from e


def onnx_predictor(path: Path, device: torch.device, weight_paths: WeightPaths, options: PredictOptions) -> Predictor:
    """Returns a predictor for an ONNX file. UserError for options that an exported file does not have."""
    requested = {"--amp": options.amp != "off", "--compile": options.compile, "--exact": options.exact}
    requested |= {"--fast": options.fold, "--tta scale": options.averaging.scales != (1.0,)}
    requested |= {f"--{flag}": True for flag in weight_paths}
    if wrong := [flag for flag, is_on in requested.items() if is_on]:
        raise UserError(f"{path} runs as it was exported; leave out {', '.join(wrong)}, or give the checkpoint")
    forward = OnnxForward(path, device)
    if forward.whole:
        raise UserError(f"{path} was exported with --whole, for programs that need maps of one size; export it without")
    if options.size not in (None, forward.size):
        raise UserError(f"{path} takes images of {forward.size}x{forward.size} alone; leave out --size {options.size}")
    return Predictor(
        forward,
        forward.size,
        forward.device,
        averaging=options.averaging,
        tile=options.tile,
        stride=forward.size,
        classes=forward.classes,
    )
