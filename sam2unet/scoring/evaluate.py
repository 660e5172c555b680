"""Scores folders of prediction maps against folders of masks, and writes what a paper or a reader needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..atomic import make_folder, read_yaml, refuse_other_results, write_atomic, write_together
from ..errors import UserError, print_line, print_lines, warn
from ..recipe import ForegroundRule
from ..runtime.versions import versions
from . import compare, csv_files, tables
from .aggregate import OF_CURVES
from .columns import METRICS, PROTOCOLS
from .expected import figures
from .plots import write_plots
from .report import write_report
from .results import MethodResult
from .score_folders import Entry, score_entries
from .score_pair import ScoreOptions
from .verify import verify

PACKAGES = ("sam2unet", "pysodmetrics", "numpy", "opencv-python-headless", "scipy", "scikit-image", "pillow")
FILES = ("table.md", "table.tex", "table.csv", "per_image.csv", "results.json", "report.html")


@dataclass(frozen=True)
class ScoreOutputs:
    """What to make of the scores.

    Attributes:
        protocol: whose columns to print, a name of `columns.PROTOCOLS`.
        expect: a paper whose figures are printed beside ours.
        folder: gets the tables and the numbers; `plots` and `report` too.
        arguments: what the run was asked for, for the record.
    """

    protocol: str = "released"
    expect: str | None = None
    folder: Path | None = None
    plots: bool = False
    report: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(f"no protocol named {self.protocol}; there are {', '.join(PROTOCOLS)}")
        if self.folder is None and (self.plots or self.report):
            raise UserError("--plots and --report need --save_dir, the folder that they go to")


def run(
    entries: Sequence[Entry],
    outputs: ScoreOutputs,
    mask_threshold: ForegroundRule = None,
    missing: str = "error",
    resize: bool = False,
    library: bool = False,
    verified: int = 0,
    workers: int | None = None,
) -> None:
    """Score, write the files, print the table. UserError before anything is printed or written."""
    if verified < 0:
        raise UserError(f"verify is {verified}; it must be 0 or above")
    columns = PROTOCOLS[outputs.protocol]
    how = ScoreOptions(
        mask_threshold=mask_threshold,
        resize=resize,
        library=library,
        plain=outputs.plots
        or outputs.report
        or any(not key.startswith(("mirror_", "dichotomous_")) for key in columns),
        mirror=any(key.startswith("mirror_") for key in columns),
        effort="dichotomous_HCE" in columns,
    )
    check_names(entries)
    expected = figures(outputs.expect) if outputs.expect else None
    if outputs.folder:
        make_folder(outputs.folder)
        refuse_other_results(outputs.folder, FILES)
    results = score_entries(entries, how, missing, workers)
    line = verify(results, how, verified) if verified else ""
    write_and_print(results, columns, outputs, expected, line, mask_threshold)


def rerun(path: Path, outputs: ScoreOutputs) -> None:
    """The tables of an earlier run's `per_image.csv`, as far as means over images go."""
    if outputs.plots or outputs.report:
        raise UserError("--plots and --report need the images; --from has only their numbers")
    results = csv_files.read_per_image_csv(path)
    wanted = PROTOCOLS[outputs.protocol]
    columns = [key for key in wanted if all(key in result.table for result in results)]
    if not columns:
        raise UserError(f"{path} holds none of the columns of {outputs.protocol}: {', '.join(wanted)}")
    if left_out := [key for key in wanted if key not in columns]:
        reason = (
            "made of curves, which the file does not hold" if set(left_out) <= set(OF_CURVES) else "not in the file"
        )
        warn(f"left out: {', '.join(left_out)} ({reason})")
    if outputs.folder:
        make_folder(outputs.folder)
        refuse_other_results(outputs.folder, FILES)
    write_and_print(results, columns, outputs, figures(outputs.expect) if outputs.expect else None)


def check_names(entries: Sequence[Entry]) -> None:
    seen = [(entry.dataset, entry.method) for entry in entries]
    if twice := sorted({f"{d} {m}".strip() for d, m in seen if seen.count((d, m)) > 1}):
        raise UserError(f"named twice: {', '.join(twice)}; tell methods apart with --method")


def write_and_print(
    results: list[MethodResult],
    columns: Sequence[str],
    outputs: ScoreOutputs,
    expected: Mapping[str, Mapping[str, float]] | None,
    verified: str = "",
    mask_threshold: int | None = None,
) -> None:
    """Write the files, then print the tables, also where the files cannot be written: the scores took long."""
    names: list[str] = []
    try:
        if outputs.folder:
            names = write_files(results, columns, outputs, mask_threshold)
    finally:
        texts = [tables.text_table(results, columns, expected)]
        if differences := compare.compare(results, columns):
            texts.append(compare.format_comparison(differences))
        texts += [tables.legend(columns), *filter(None, [verified])]
        print_lines("\n\n".join(texts))
    if names:
        print_line()
        print_line(f"in {outputs.folder}: {', '.join(names)}")


def write_files(
    results: list[MethodResult], columns: Sequence[str], outputs: ScoreOutputs, mask_threshold: ForegroundRule = None
) -> list[str]:
    """All files or none, but for what cannot be drawn; their names."""
    differences = compare.compare(results, list(METRICS))
    comparison = compare.as_dict(differences) if differences else None
    contents = {
        "table.md": tables.markdown(results, columns),
        "table.tex": tables.latex(results, columns),
        "table.csv": csv_files.csv_table(results, columns),
        "per_image.csv": csv_files.per_image_csv(results),
        "results.json": csv_files.results_json(results, dict(outputs.arguments), versions(PACKAGES), comparison),
    }
    failed = None
    with write_together(outputs.folder) as folder:
        for name, text in contents.items():
            with write_atomic(folder / name) as file:
                file.write(text.encode())
        try:
            if outputs.plots:
                write_plots(results, folder)
            if outputs.report:
                write_report(results, folder / "report.html", columns, mask_threshold=mask_threshold)
        except UserError as e:
            failed = e  # the numbers stay
        names = sorted(path.name for path in folder.iterdir())
    if failed:
        raise failed
    return names


def read_entry_flags(
    datasets: Sequence[str],
    predictions: Sequence[Path],
    masks: Sequence[Path],
    methods: Sequence[str],
    photographs: Sequence[Path],
) -> list[Entry]:
    """One entry per data set named; `methods` and `photographs` may be none, `methods` one for all."""
    counts = {"--pred_path": len(predictions), "--gt_path": len(masks)}
    if photographs:
        counts["--image_path"] = len(photographs)
    if len(methods) > 1:
        counts["--method"] = len(methods)
    if wrong := [f"{count} {flag}" for flag, count in counts.items() if count != len(datasets)]:
        several = "; for several methods on one data set, repeat its name and masks, and name each by --method"
        raise UserError(
            f"{len(datasets)} --dataset_name, but {', '.join(wrong)}; give one each, in the same order"
            f"{several if len(predictions) > len(datasets) > 0 else ''}"
        )
    names = list(methods) * len(datasets) if len(methods) == 1 else list(methods) or [""] * len(datasets)
    pictures = list(photographs) or [None] * len(datasets)
    return [Entry(*row) for row in zip(datasets, names, predictions, masks, pictures, strict=True)]


def read_entry_file(path: Path) -> list[Entry]:
    """From a YAML file, `datasets: {NAME: {masks: DIR, images: DIR, predictions: {METHOD: DIR}}}`.

    Folders are relative to the file's; `images`, for the report, may be left out.
    """
    datasets = read_yaml(path).get("datasets")
    if not isinstance(datasets, dict) or not datasets:
        raise UserError(f"{path} needs `datasets:` with a block per data set")
    entries = []
    for name, block in datasets.items():
        if not isinstance(block, dict) or not {"masks", "predictions"} <= set(block) <= {
            "masks",
            "images",
            "predictions",
        }:
            raise UserError(f"{path}: {name} takes masks, predictions and perhaps images, and nothing else")
        methods = block["predictions"]
        methods = methods if isinstance(methods, dict) else {"": methods}
        if not methods:
            raise UserError(f"{path}: predictions of {name} names no method; give one folder for each method")
        folders = [block["masks"], block.get("images") or "", *methods.values()]
        if not all(isinstance(folder, str) for folder in folders):
            raise UserError(f"{path}: masks, images and predictions of {name} are folders, written as text")
        masks, images = path.parent / block["masks"], block.get("images")
        for method, folder in methods.items():
            photographs = path.parent / images if images else None
            entries.append(Entry(str(name), str(method), path.parent / folder, masks, photographs))
    return entries
