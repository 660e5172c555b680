"""Finds and downloads weights of the Hugging Face hub, and explains its errors. Code from the hub is never loaded."""

import json
import os
import re
from pathlib import Path
from typing import Any

from ..atomic import read_json
from ..errors import UserError
from ..limits import check_numbers, shorten

WEIGHTS, CONFIG = "model.safetensors", "config.json"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name
FILE_ENDINGS = (".pth", ".pt", ".safetensors", ".onnx", ".pt2")


def locate_weights(source: str | Path, **options: str | None) -> Path:
    """Returns the file with the weights of a file, a folder with `model.safetensors`, or `owner/name` on the hub.

    If a local folder `owner` exists, `owner/name` is a wrong path and not a name on the hub. `options` are `revision`
    and `token` for the hub.
    """
    path = Path(source)
    if os.path.isdir(path):  # unlike Path.is_dir, raises no error for a folder without permission
        if not os.path.isfile(path / WEIGHTS):
            raise UserError(f"{path} is a folder without {WEIGHTS}; give a checkpoint, or a folder for the hub")
        return path / WEIGHTS
    is_name = REPOSITORY.fullmatch(str(source)) and path.suffix not in FILE_ENDINGS
    if not is_name or os.path.exists(path) or os.path.isdir(path.parent):
        return path
    return download_weights(str(source), **options)


def download_weights(name: str, **options: Any) -> Path:
    """Downloads `model.safetensors` and its configuration into the cache of the hub. Returns the path."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG], **options)
    except Exception as e:  # several network packages raise errors without a common class
        why = explain_hub_error(e)
        raise UserError(f"no such file: {name}; and the download from the Hugging Face hub failed: {why}") from e
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"{name} on the Hugging Face hub has no {WEIGHTS}")
    return Path(folder) / WEIGHTS


def explain_hub_error(error: BaseException) -> str:
    """Returns the reason of an error of huggingface_hub in one line."""
    from huggingface_hub.utils import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or it is private; check the name, or log in with `hf auth login`"
    if type(error) is RuntimeError and error.__cause__:  # it only has the name of the file
        error = error.__cause__
    text = re.sub(r"\(Request ID: [^)]*\)|\d+ Client Error\.", "", str(error))  # the reason is on a later line
    return (text.strip() or type(error).__name__).splitlines()[0]


def read_hub_recipe(weights: Path) -> tuple[Path, str] | None:
    """Returns the configuration beside a hub's file, and the recipe in it as text. None for any other file."""
    config = weights.parent / CONFIG
    if weights.name != WEIGHTS or not config.is_file():
        return None
    content = read_json(config)
    size, recipe = content.get("size"), content.get("recipe", {})
    if type(size) is not int:
        raise UserError(
            f"{config}: size is {shorten(repr(size))}; wanted the side in pixels that the model was trained at"
        )
    check_numbers({"size": size}, config)
    if not isinstance(recipe, dict):
        raise UserError(f"{config}: recipe is {shorten(repr(recipe))}; wanted an object with settings")
    # YAML, which reads this text, cannot read what JSON writes for characters such as 🍃 by default.
    return config, json.dumps(recipe | {"size": size}, ensure_ascii=False)
