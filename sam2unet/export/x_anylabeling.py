"""The options and the YAML file with which X-AnyLabeling uses an exported SAM-Med2D as its model type `sam_med2d`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import yaml

from ..atomic import refuse_existing
from ..errors import UserError
from ..families.load import Checkpoint
from .prompt_graphs import RELEASED, GraphOptions


def choose_config_path(output: Path, options: GraphOptions) -> Path:
    """Returns the path of the YAML file for an `output` x.onnx.

    Raises UserError if the file exists, or an option changes what the client sends or receives.
    """
    if replace(options, opset=None, gelu_approximate=False) != RELEASED:
        raise UserError(
            "--for x-anylabeling fixes the inputs and outputs of the files; of the flags of models for prompts, it "
            "takes only --opset and --gelu_approximate"
        )
    config = output.with_suffix(".yaml")
    refuse_existing(config)
    return config


def write_client_config(file: BinaryIO, encoder: Path, decoder: Path, checkpoint: Checkpoint, side: int) -> None:
    """Writes the YAML file. It names the ONNX files without a folder, so all three files must stay in one folder."""
    name = encoder.stem.removesuffix("_encoder")
    facts = {
        "type": "sam_med2d",
        "name": re.sub("[^A-Za-z0-9._-]", "_", name),  # the client refuses other characters
        "provider": "sam2unet",
        "display_name": f"{name} ({checkpoint.family.describe(checkpoint.shape)}, {checkpoint.path.name})",
        "encoder_model_path": encoder.name,
        "decoder_model_path": decoder.name,
        "input_size": side,
    }
    file.write(yaml.safe_dump(facts, sort_keys=False).encode("ascii"))
