"""Runs eval.py --classes: scores folders of maps with several classes, writes the files and prints the tables."""

from collections.abc import Sequence
from functools import partial

from ...classes import Classes
from ...data.pairs import list_files
from ...data.volumes.open import is_volume
from ...errors import UserError
from ...runtime.versions import versions
from ..columns import SURFACES
from ..compare import Difference
from ..evaluate import (
    FILES,
    PACKAGES,
    Content,
    ScoreOutputs,
    check_names,
    choose_surfaces,
    make_paper_tables,
    prepare_outputs,
    prepare_parts,
    publish,
)
from ..match import Entry
from ..parts import Parts
from ..pixels.medical_scores import SurfaceOptions
from ..report.page import write_report
from ..score_pair import ScoreOptions
from ..tables import csv_files
from ..tables import score_tables as tables
from ..tables.comparison_tables import format_comparison, to_json_dict
from . import files
from .columns import CLASS_PROTOCOLS, SURFACE_CLASS, define_class_columns, list_columns
from .compare import compare_classes
from .score_folders import ClassResult, score_class_folders


def run(
    entries: Sequence[Entry],
    outputs: ScoreOutputs,
    classes: Classes,
    missing: str = "error",
    resize: bool = False,
    workers: int | None = None,
    surfaces: SurfaceOptions | None = None,
    parts: Parts | None = None,
) -> None:
    """Scores, writes the files and prints the tables. Raises UserError before it prints or writes anything.

    Args:
        missing, resize, workers, parts: see `score_class_folders`. Maps are resized by nearest neighbour.
        surfaces: how surfaces are compared, if the protocol has their columns.
    """
    check_names(entries)
    if outputs.report:
        refuse_volumes(entries)
    columns = list_columns(outputs.protocol, classes.names)
    surfaces = choose_surfaces(surfaces, not set(columns) <= set(define_class_columns(classes.names)))
    metrics = define_class_columns(classes.names, surfaces is not None)
    how = ScoreOptions(classes, resize, medical=surfaces)
    parts = prepare_parts(parts, entries, how, missing)
    names = [*FILES, "classes.csv", "confusion.csv", *files.name_pictures(entries)]
    prepare_outputs(outputs, () if parts and parts.shard else names)
    results = score_class_folders(entries, how, missing, workers, parts)
    if parts and parts.shard:
        return
    summary = [key for key in CLASS_PROTOCOLS[outputs.protocol] if "{}" not in key]
    texts = [
        tables.format_table(results, summary, metrics=metrics),
        files.format_class_table(results, outputs.protocol),
    ]
    differences = compare_classes(results, columns, results[0].define_columns() if outputs.folder else ())
    if differed := [d for d in differences if d.metric in columns]:
        texts.append(format_comparison(differed))
    shown = [key for key in SURFACES if SURFACE_CLASS.format(key, "{}") in CLASS_PROTOCOLS[outputs.protocol]]
    texts.append(tables.format_legend([*summary, *shown], metrics | SURFACES))
    page = partial(
        write_report, results, columns=columns, mask_threshold=classes, metrics=metrics, limit=outputs.report_images
    )
    draw = [lambda folder: page(folder / "report.html", differences=differed, command=outputs.command)]
    contents = partial(make_class_contents, results, columns, outputs, differences)
    publish(outputs, contents, draw if outputs.report else [], texts)


def refuse_volumes(entries: Sequence[Entry]) -> None:
    """Raises UserError if masks are volumes that are scored in 3D: the report has only pictures of images."""
    for entry in entries:
        if entry.slices is None and any(map(is_volume, list_files(entry.masks, volumes=True))):
            raise UserError(f"{entry.masks} has volumes, which --report cannot show; give --slices")


def make_class_contents(
    results: list[ClassResult], columns: Sequence[str], outputs: ScoreOutputs, differences: list[Difference]
) -> dict[str, Content]:
    """Returns the content of each file by name, without the report."""
    metrics = results[0].define_columns()
    comparison = to_json_dict(differences) if differences else None
    texts = {
        **make_paper_tables(results, columns, metrics, differences),
        "table.csv": csv_files.csv_table(results, list(metrics)),
        "classes.csv": files.class_table_csv(results),
        "confusion.csv": files.confusion_csv(results),
        "results.json": csv_files.results_json(results, dict(outputs.arguments), versions(PACKAGES), comparison),
    }
    contents: dict[str, Content] = {name: text.encode() for name, text in texts.items()}
    contents["per_image.csv"] = map(str.encode, files.per_image_class_csv(results, outputs.workers))
    return contents | files.confusion_pictures(results)
