"""Writes a folder for the Hugging Face hub: all weights, their settings, and a model card with the scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import nn

from ..atomic import read_json, sha256, write_atomic, write_together
from ..classes import Classes
from ..errors import UserError
from ..families.load import Checkpoint
from ..families.settings import get_settings, locate_recipe
from ..families.table import TRUNK, find_family
from ..masks.transforms import IMAGENET_MEAN, IMAGENET_STD
from ..prompts import framing
from ..scoring.classes.columns import CLASS_PROTOCOLS, define_class_columns, list_columns
from ..scoring.columns import METRICS, PROTOCOLS, Metric
from ..scoring.tables.score_tables import markdown_code, markdown_table, markdown_text
from ..weights.hub import CONFIG, WEIGHTS
from ..weights.weight_files import WeightFiles, weight_files_to_facts

CARD_FILE = "README.md"
PROMPT_METRICS = {  # of results.json of test.py for a model for prompts
    "Dice": Metric("Dice", "mean of the Dice of each mask"),
    "IoU": Metric("IoU", "mean of the intersection over union of each mask"),
}
# With several classes, a card has the scores over all classes, and not those of each class.
ALL_METRICS = METRICS | define_class_columns(()) | PROMPT_METRICS
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

model = sam2unet.from_pretrained("OWNER/NAME")  # or this folder
{use}
```

Without this package: `config.json` has the sizes and the pre-processing, and `model.safetensors` has all weights with
the released names (`huggingface_hub.load_torch_model`).

## Model

{properties}
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
        'answer = sam2unet.Prompter(model).set_image("slice.png").predict(box=[40, 30, 90, 80])  # .masks, .quality',
        {
            "resize": "nearest pixel, aspect ratio not kept; images smaller on both sides are centred between zeros",
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
    folder: Path, checkpoint: Checkpoint, model: nn.Module, weight_files: WeightFiles, scores: Path | None
) -> None:
    """Writes all files into `folder`, or none of them after an error. The folder must be new or empty.

    `weight_files` are the known files of the frozen parts of `model`. `scores` is a results.json of eval.py for this
    model, or of test.py for prompts.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another")
    settings = get_settings(model)
    classes = settings.classes
    text = describe_classes(classes) if classes else CARD_TEXTS[checkpoint.family.task]
    results, columns = ({}, ()) if scores is None else read_scores(scores)
    title = checkpoint.family.describe(checkpoint.shape)
    source = {"name": checkpoint.path.name, "sha256": sha256(checkpoint.path)}
    config: dict[str, Any] = {"model": checkpoint.family.name, **checkpoint.shape.to_facts(), "size": settings.size}
    colours = "red, green, blue" if settings.rgb or checkpoint.family.task == "masks" else "blue, green, red"
    config |= {"channels": colours, **text.processing, "checkpoint": source, **weight_files_to_facts(weight_files)}
    if locate_recipe(checkpoint) is not None:
        config["recipe"] = settings.to_dict()
    origin = [f"Converted from {markdown_code(source['name'])}, SHA-256 `{source['sha256']}`."]
    origin += [
        f"The weights of its {flag.part} come from {markdown_code(file.name)}, SHA-256 {markdown_code(file.sha256)}."
        for flag in checkpoint.family.weight_flags
        if (file := weight_files.get(flag.flag))
    ]
    (paper, number), size = checkpoint.family.paper, config["size"]
    facts = front_matter(
        checkpoint.family.name, title, checkpoint.family.licence(checkpoint.shape), results, columns, bool(classes)
    )
    texts = {"facts": facts, "title": title, "purpose": text.purpose, "paper": paper, "number": number, "size": size}
    texts |= {"use": text.use.format(size=size), "scores": format_scores(results, columns), "origin": "\n".join(origin)}
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    weights = safetensors.torch.save(state, {"format": "pt"})  # readers of the hub require this format
    card = CARD.format(**texts, properties=format_properties(checkpoint, model, colours, len(weights)))
    contents = {CONFIG: json.dumps(config, indent=2).encode() + b"\n", CARD_FILE: card.encode(), WEIGHTS: weights}
    with write_together(folder) as part:
        for name, content in contents.items():
            with write_atomic(part / name) as target:
                target.write(content)


def read_scores(path: Path) -> tuple[Mapping, Sequence[str]]:
    """Reads a results.json: data set -> metric -> number, with the number of images as `images`, and the columns.

    A results.json of test.py for prompts has a row for each kind of prompts instead of data sets.
    """
    content = read_json(path)
    try:
        if "means" in content:
            return {
                f"prompts: {prompt}": {name: float(row[name]) for name in PROMPT_METRICS}
                | {"images": int(row["masks"])}
                for prompt, row in content["means"].items()
            }, list(PROMPT_METRICS)
        columns = CARD_COLUMNS[content["arguments"].get("protocol") or "released"]
        several = next((names for names in content["datasets"].values() if len(names) != 1), None)
        if several is not None:
            raise UserError(f"{path} has scores of several models ({', '.join(several)}); score only this model")
        results: dict[str, dict[str, Any]] = {}
        for dataset, ((method, numbers),) in ((name, row.items()) for name, row in content["datasets"].items()):
            numbers = numbers | {"images": int(content["files"][dataset][method]["images"])}
            results[dataset] = {key: None if value is None else float(value + 0) for key, value in numbers.items()}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as e:
        raise UserError(f"{path} is not a results.json of eval.py --save_dir, or of test.py for prompts") from e
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


def format_properties(checkpoint: Checkpoint, model: nn.Module, colours: str, byte_count: int) -> str:
    """Returns a table of properties and, if there are classes, a table of their indices and their values in masks."""
    count, settings = sum(weight.numel() for weight in model.parameters()), get_settings(model)
    size, classes = settings.size, settings.classes
    properties = {
        "parameters": f"{count:,}",
        WEIGHTS: f"{byte_count:,} bytes",
        "input": f"{size}x{size} pixels; {colours}",
        "licence of the pretrained parts": checkpoint.family.licence(checkpoint.shape),
    }
    table = markdown_table([("property", [*properties]), ("value", [*properties.values()])], [])
    if not classes:
        return table
    indices = [str(index) for index in range(len(classes.items))]
    names, values = map(markdown_text, classes.names), map(classes.describe, classes.codes)
    columns = [("index", indices), ("class", [*names]), ("value in the masks", [*values])]
    return f"{table}\n{markdown_table(columns, [])}"


def format_scores(results: Mapping, columns: Sequence[str]) -> str:
    if not results:
        return "No scores.\n"
    counted = "masks" if PROMPT_METRICS.keys() >= set(columns) else "images"
    numbers = [(counted, [f"{row['images']:.0f}" for row in results.values()])]
    for key in columns:
        title = f"{ALL_METRICS[key].title} {'↑' if ALL_METRICS[key].higher else '↓'}"
        numbers.append((title, [f"{row[key]:.3f}" for row in results.values()]))
    legend = "; ".join(f"{ALL_METRICS[key].title}: {ALL_METRICS[key].legend}" for key in columns)
    return f"{markdown_table([('data set', [*map(markdown_text, results)])], numbers)}\n{legend}.\n"
