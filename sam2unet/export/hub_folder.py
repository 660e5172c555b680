"""Writes a folder for the Hugging Face hub: all weights, their settings, and a model card with the scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from torch import nn

from ..atomic import read_json, sha256, write_atomic, write_together
from ..classes import Classes
from ..errors import UserError
from ..families.load import Checkpoint
from ..families.settings import locate_recipe
from ..families.table import TRUNK, find_family
from ..masks.transforms import IMAGENET_MEAN, IMAGENET_STD
from ..prompts import framing
from ..scoring.classes.columns import CLASS_PROTOCOLS, define_class_columns, list_columns
from ..scoring.columns import METRICS, PROTOCOLS
from ..scoring.tables import markdown_code, markdown_text
from ..weights.hub import CONFIG, WEIGHTS
from ..weights.weight_files import WeightFiles, weight_files_to_facts

# With several classes, a card has the scores over all classes, and not those of each class.
ALL_METRICS = METRICS | define_class_columns(())
CARD_COLUMNS = PROTOCOLS | {name: list_columns(name, ()) for name in CLASS_PROTOCOLS}
CARD = """---
{facts}
---

# {title}

{title}, {purpose}; input {size}x{size}.
Paper: [{paper}](https://arxiv.org/abs/{number}).

## Use

```python
import sam2unet

model = sam2unet.load_model("OWNER/NAME")  # or this folder
{use}
```

Without this package: `config.json` has the sizes and the pre-processing, and `model.safetensors` has all weights with
the released names (`huggingface_hub.load_torch_model`).

## Scores

{scores}
## Weights

{origin}

## Licence

The code and the weights of SAM, SAM 2 and DINOv2 are under the Apache License 2.0. The weights of DINOv3 and SAM 3, and
the pictures that a model was trained on, have their own licences. Weights that contain the encoder of SAM 3 are under
Meta's SAM License; pass them on only with a copy of it.
"""


class CardText(NamedTuple):
    """The text in a folder that differs between models for masks and for prompts."""

    purpose: str
    use: str  # lines of Python, with {size}
    processing: Mapping[str, object]  # the pre-processing, for `config.json`


CARD_TEXTS = {
    "masks": CardText(
        "for binary segmentation of images",
        'map_ = sam2unet.predict(model, "photo.jpg", size={size})  # float32 in [0, 1], the photograph\'s size',
        {
            "resize": "bilinear with antialiasing, aspect ratio not kept",
            "mean": IMAGENET_MEAN.flatten().tolist(),
            "std": IMAGENET_STD.flatten().tolist(),
        },
    ),
    "prompts": CardText(
        "for segmentation by points, boxes and masks",
        'found = sam2unet.Prompter(model).set_image("slice.png").predict(box=[40, 30, 90, 80])  # .masks, .quality',
        {
            "resize": "nearest pixel, aspect ratio not kept; images smaller on both sides are centred between zeros",
            "channels": "blue, green, red",
            "mean": list(framing.SAM_MEAN),
            "std": list(framing.SAM_STD),
        },
    ),
}


def describe_classes(classes: Classes) -> CardText:
    names = ", ".join(map(markdown_code, classes.names))
    return CARD_TEXTS["masks"]._replace(
        purpose=f"for segmentation of images into {len(classes.items)} classes: {names}",
        use='indices = sam2unet.predict(model, "photo.jpg", size={size})  # uint8, an index for each pixel\n'
        "names = model.recipe.classes.names",
    )


def write_folder(
    folder: Path, found: Checkpoint, model: nn.Module, weight_files: WeightFiles, scores: Path | None
) -> None:
    """Writes all files into `folder`, or none of them after an error. The folder must be new or empty.

    `found` is the checkpoint of `model`, `weight_files` are the known files of its frozen parts, and `scores` is a
    results.json of eval.py for this model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another")
    classes = model.recipe.classes
    text = describe_classes(classes) if classes else CARD_TEXTS[found.family.task]
    results, columns = ({}, ()) if scores is None else read_scores(scores)
    title = found.family.describe(found.shape)
    checkpoint = {"name": found.path.name, "sha256": sha256(found.path)}
    config = {"model": found.family.name, **found.shape.to_facts(), "size": model.recipe.size}
    config |= {**text.processing, "checkpoint": checkpoint, **weight_files_to_facts(weight_files)}
    if locate_recipe(found) is not None:
        config["recipe"] = model.recipe.to_dict()
    origin = [f"Converted from {markdown_code(checkpoint['name'])}, SHA-256 `{checkpoint['sha256']}`."]
    origin += [
        f"The weights of its {flag.part} come from {markdown_code(file.name)}, SHA-256 {markdown_code(file.sha256)}."
        for flag in found.family.weight_flags
        if (file := weight_files.get(flag.flag))
    ]
    (paper, number), size = found.family.paper, config["size"]
    facts = front_matter(found.family.name, title, found.family.licence(found.shape), results, columns, bool(classes))
    texts = {"facts": facts, "title": title, "purpose": text.purpose, "paper": paper, "number": number, "size": size}
    texts |= {"use": text.use.format(size=size), "scores": format_scores(results, columns), "origin": "\n".join(origin)}
    card = CARD.format(**texts)
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    contents = {CONFIG: json.dumps(config, indent=2).encode() + b"\n", "README.md": card.encode()}
    contents[WEIGHTS] = safetensors.torch.save(state, {"format": "pt"})  # readers of the hub require this format
    with write_together(folder) as part:
        for name, content in contents.items():
            with write_atomic(part / name) as file:
                file.write(content)


def read_scores(path: Path) -> tuple[Mapping, Sequence[str]]:
    """Reads a results.json: data set -> metric -> number, with the number of images as `images`, and the columns."""
    content = read_json(path)
    try:
        columns = CARD_COLUMNS[content["arguments"].get("protocol") or "released"]
        several = next((names for names in content["datasets"].values() if len(names) != 1), None)
        if several is not None:
            raise UserError(f"{path} has scores of several models ({', '.join(several)}); score only this model")
        results = {}
        for dataset, ((method, numbers),) in ((name, row.items()) for name, row in content["datasets"].items()):
            numbers = numbers | {"images": content["files"][dataset][method]["images"]}
            results[dataset] = {key: None if value is None else float(value + 0) for key, value in numbers.items()}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as e:
        raise UserError(f"{path} is not a results.json of eval.py --save_dir") from e
    return results, [key for key in columns if all(numbers.get(key) is not None for numbers in results.values())]


def front_matter(
    kind: str, title: str, licence: str, results: Mapping, columns: Sequence[str], has_classes: bool = False
) -> str:
    """Returns the YAML header that the hub reads, with the scores."""
    from huggingface_hub import EvalResult, ModelCardData

    scored = [
        EvalResult("image-segmentation", dataset, dataset, key, numbers[key], metric_name=ALL_METRICS[key].title)
        for dataset, numbers in results.items()
        for key in columns
    ]
    family = find_family(kind)
    tags = [kind, *["sam2"] * (TRUNK in family.weight_flags), f"{'semantic' if has_classes else 'binary'}-segmentation"]
    data = ModelCardData(
        license=licence,
        library_name="sam2unet",
        pipeline_tag="image-segmentation" if family.task == "masks" else "mask-generation",
        tags=tags,
        model_name=title if scored else None,
        eval_results=scored or None,
    )
    return data.to_yaml()


def format_scores(results: Mapping, columns: Sequence[str]) -> str:
    if not results:
        return "No scores.\n"
    titles = [f"{ALL_METRICS[key].title} {'↑' if ALL_METRICS[key].higher else '↓'}" for key in columns]
    rows = [["data set", "images", *titles], ["---", *["---:"] * (len(columns) + 1)]]
    for dataset, numbers in results.items():
        rows.append([markdown_text(dataset), f"{numbers['images']:.0f}", *(f"{numbers[key]:.3f}" for key in columns)])
    legend = "; ".join(f"{ALL_METRICS[key].title}: {ALL_METRICS[key].legend}" for key in columns)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{legend}.\n"
