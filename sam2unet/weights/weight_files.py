"""The files of published weights that training starts from, and their flags."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .download import locate_weight_files
from .named import SOURCES

WEIGHT_FLAGS = {  # flag -> what the file is
    "hiera_path": "SAM 2 checkpoint",
    "dinov2_path": "SAM2-UNeXT: DINOv2 weights of timm or Meta, or DINOv3 weights of timm,",
    "sam3_path": "SAM3-UNet: sam3.pt of huggingface.co/facebook/sam3",
    "sam_checkpoint": "SAM-Med2D: checkpoint of SAM or SAM-Med2D",
}


@dataclass(frozen=True)
class WeightFile:
    """The file with the weights of a frozen part. Only the SHA-256 identifies it; the name is for messages."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256[:16]}..."


WeightPaths = Mapping[str, Path]  # by flag
WeightFiles = Mapping[str, WeightFile]  # by flag
NO_FILES: Mapping = MappingProxyType({})


def add_weight_flags(group: argparse._ActionsContainer, use: str = " that the checkpoint was trained from") -> None:
    """Adds a flag for each entry of `WEIGHT_FLAGS`, and `--weights_from`. `use` ends the help text of the entry."""
    for flag, what in WEIGHT_FLAGS.items():
        group.add_argument(f"--{flag}", type=Path, metavar="FILE|NAME", help=f"{what}{use}")
    add_source_flag(group)


def add_source_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--weights_from",
        choices=SOURCES,
        help="server for weights that are given by name, see `sam2unet weights list`; hub: Hugging Face; default: meta",
    )


def read_weight_flags(args: argparse.Namespace) -> WeightPaths:
    """Returns the files that the user gave, by flag. Downloads the weights that the user gave by name."""
    values = {flag: getattr(args, flag) for flag in WEIGHT_FLAGS if getattr(args, flag) is not None}
    return locate_weight_files(values, args.weights_from)


def to_flags(files: WeightPaths) -> list[str | Path]:
    """Returns the words for the command line of another script."""
    return [word for flag, path in files.items() for word in (f"--{flag}", path)]


def weight_files_to_facts(weight_files: WeightFiles) -> dict[str, str]:
    """Returns name and hash of each file as text for the header of a file, for example `hiera` and `hiera_sha256`."""
    facts: dict[str, str] = {}
    for flag, file in weight_files.items():
        key = flag.removesuffix("_path")
        facts |= {key: file.name, f"{key}_sha256": file.sha256}
    return facts


def weight_files_from_facts(facts: Mapping[str, str]) -> dict[str, WeightFile]:
    """Reads what `weight_files_to_facts` wrote. Ignores all other facts."""
    keys = {flag: flag.removesuffix("_path") for flag in WEIGHT_FLAGS}
    return {flag: WeightFile(facts[key], facts.get(f"{key}_sha256", "")) for flag, key in keys.items() if key in facts}
