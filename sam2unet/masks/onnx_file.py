"""ONNX files that `export` made: predicting with them through onnxruntime, without the model's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..atomic import read_start
from ..errors import UserError, warn
from ..limits import check_numbers, shorten
from ..weights.weight_files import WeightPaths
from .predictor import Predictor

if TYPE_CHECKING:
    import onnxruntime as ort

    from .predictor import PredictOptions

FORMAT, VERSION = "sam2unet-export", "1"


class OnnxForward:
    """Calls an exported model with a tensor, (B, ...), on any device, and gives its output on the device it ran on.

    Attributes:
        path: the file.
        facts: what the file says about itself, from `export.facts_of`.
        size: the one input side that it takes.
        whole: from uint8 photographs to uint8 maps, not from normalised images to logits.
        device: where it runs: a GPU if onnxruntime can use it, else the CPU.

    Raises UserError without onnxruntime, and for a file that is damaged or not ours.
    """

    def __init__(self, path: Path, device: torch.device):
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise UserError(f"{path} needs onnxruntime, which is not installed: pip install onnxruntime") from e
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
            raise UserError(f"{path} is not a model that scripts/export.py made; give such a file or a checkpoint")
        if (version := self.facts.get("version")) != VERSION:
            raise UserError(f"{path} has version {shorten(version)} of the format, known here is {VERSION}; update")
        self.size, self.whole = self.check_graph(path), self.facts["whole"] == "yes"
        self.device = device if on_gpu else torch.device("cpu")

    def check_graph(self, path: Path) -> int:
        """The side of the images that the graph takes; UserError if the graph is not what the file says of itself."""
        puts = [*self.session.get_inputs(), *self.session.get_outputs()]
        size = puts[0].shape[2] if puts and len(puts[0].shape) == 4 else None
        wanted = {
            "no": [("tensor(float)", [3, size, size]), ("tensor(float)", [1, size, size])],
            "yes": [("tensor(uint8)", [size, size, 3]), ("tensor(uint8)", [size, size])],
        }
        says, whole = self.facts.get("size"), self.facts.get("whole")
        if says != str(size) or [(put.type, put.shape[1:]) for put in puts] != wanted.get(whole):
            found = ", ".join(f"{put.name} {put.type} {put.shape}" for put in puts)
            raise UserError(
                f"{path} is damaged: it says that it has size {shorten(says)} and whole {shorten(whole)}, but its "
                f"inputs and outputs are {shorten(found, 200)}; export it again"
            )
        check_numbers({"size": size}, path)
        return size

    def __call__(self, images: Tensor) -> Tensor:
        (name,) = (given.name for given in self.session.get_inputs())
        try:
            (found,) = self.session.run(None, {name: images.cpu().contiguous().numpy()})
        except Exception as e:  # its errors have no class in common
            why = shorten(" ".join(str(e).split()), 200)
            raise UserError(f"onnxruntime cannot compute {self.path} ({why}); export it again") from e
        return torch.from_numpy(found).to(self.device)


def open_session(path: Path, providers: Sequence[object] = ("CPUExecutionProvider",)) -> ort.InferenceSession:
    """With as many threads as torch takes; UserError for a damaged file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # which OMP_NUM_THREADS sets; of itself it takes all
    options.log_severity_level = 4  # what goes wrong, its exceptions say
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as e:  # its errors have no class in common
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is not an ONNX file, or only a part of one; compare its size "
            "with the original or export it again"
        ) from e


def onnx_predictor(path: Path, device: torch.device, weight_paths: WeightPaths, options: PredictOptions) -> Predictor:
    """As `open_predictor`; UserError for what a file that was computed before cannot do."""
    asked = {
        "--amp": options.amp != "off",
        "--compile": options.compile,
        "--fast": options.fold,
        "--tta scale": options.averaging.scales != (1.0,),
    } | {f"--{flag}": True for flag in weight_paths}
    if wrong := [flag for flag, given in asked.items() if given]:
        raise UserError(f"{path} runs as it was exported; leave out {', '.join(wrong)}, or give the checkpoint")
    forward = OnnxForward(path, device)
    if forward.whole:
        raise UserError(f"{path} was exported with --whole, for programs that need grey maps; export it without")
    if options.size not in (None, forward.size):
        raise UserError(f"{path} takes images of {forward.size}x{forward.size} alone; leave out --size {options.size}")
    return Predictor(forward, forward.size, forward.device, averaging=options.averaging, tile=options.tile)
