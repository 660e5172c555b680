"""Runs eval.py: scores folders of maps against folders of masks, writes the files and prints the table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..atomic import make_folder, refuse_other_results, write_atomic, write_together
from ..errors import UserError, print_line, print_lines, warn
from ..recipe import ForegroundRule
from ..runtime.versions import import_extra, versions
from .aggregate import CURVE_METRICS, MethodResult
from .columns import METRICS, PROTOCOLS, Metric
from .compare import Difference, compare
from .expected import Figures, find_figures, read_figures
from .match import Entry
from .parts import Parts, describe_settings
from .pixels.medical_scores import SurfaceOptions
from .report.page import write_report
from .score_folders import score_entries, verify
from .score_pair import ScoreOptions
from .tables import comparison_tables, csv_files
from .tables import score_tables as tables
from .tables.plots import ENDINGS, name_plots, write_plots

PACKAGES = ("sam2unet", "pysodmetrics", "numpy", "opencv-python-headless", "scipy", "scikit-image", "pillow")
FILES = ("table.md", "table.tex", "table.csv", "per_image.csv", "results.json", "report.html")
Content = bytes | Iterable[bytes]  # of a file; a large one comes in pieces


@dataclass(frozen=True)
class ScoreOutputs:
    """What to print and to write. Raises UserError for an unknown protocol, or plots or a report without folder."""

    protocol: str = "released"  # a name of `protocols`, which decides the columns
    expect: str | None = None  # a paper whose published figures are printed beside the measured numbers
    folder: Path | None = None  # the folder for all files; None to write none
    # plots and report: also write the plots, or the HTML report
    plots: bool = False
    report: bool = False
    report_images: int | None = None  # the largest number of images in the gallery of the report
    # the flags of the run, for results.json
    arguments: Mapping[str, object] = field(default_factory=dict)
    protocols: Sequence[str] = tuple(PROTOCOLS)
    command: str = ""  # the command line, which is shown in the report
    workers: int | None = 1  # processes that format `per_image.csv`; None: one for each core

    def __post_init__(self) -> None:
        if self.protocol not in self.protocols:
            raise UserError(f"no protocol named {self.protocol}; give one of {', '.join(self.protocols)}")
        if self.folder is None and (self.plots or self.report):
            raise UserError("--plots and --report need --save_dir, the folder for their files")
        if self.report_images is not None and not self.report:
            raise UserError("--report_images needs --report")
        if self.report_images is not None and self.report_images < 1:
            raise UserError(f"--report_images is {self.report_images}; it must be 1 or more")


def run(
    entries: Sequence[Entry],
    outputs: ScoreOutputs,
    mask_threshold: ForegroundRule = None,
    missing: str = "error",
    resize: bool = False,
    library: bool = False,
    verify_count: int = 0,
    workers: int | None = None,
    surfaces: SurfaceOptions | None = None,
    parts: Parts | None = None,
) -> None:
    """Scores, writes the files and prints the table. With a shard in `parts`, only writes its part.

    Raises UserError if the input cannot be scored. In this case nothing is printed or written.

    Args:
        missing, resize, library, workers: see `score_entries` and `ScoreOptions`.
        verify_count: this many random pairs are scored again with py-sod-metrics.
        surfaces: how the columns of the group `medical` are computed, if the protocol has them.
        parts: the scores of shards; see `score_entries`.
    """
    columns = PROTOCOLS[outputs.protocol]
    groups = {METRICS[key].group for key in columns}
    plain, medical = outputs.plots or outputs.report, choose_surfaces(surfaces, "medical" in groups)
    options = {"mask_threshold": mask_threshold, "resize": resize, "library": library}
    how = ScoreOptions.choose(columns, plain, medical, **options)
    check_library(how, verify_count, outputs.protocol)
    check_names(entries)
    parts = prepare_parts(parts, entries, how, missing)
    expected = prepare_outputs(outputs, () if parts and parts.shard else list_files_to_write(entries, outputs))
    results = score_entries(entries, how, missing, workers, parts)
    if parts and parts.shard:
        return
    line = verify(results, how, verify_count) if verify_count else ""
    write_and_print(results, columns, outputs, expected, line, mask_threshold)


def check_library(how: ScoreOptions, verify_count: int, protocol: str) -> None:
    """Raises UserError if py-sod-metrics is needed, but not installed or without the columns of the protocol."""
    if verify_count < 0:
        raise UserError(f"verify is {verify_count}; it must be 0 or more")
    flag = "--verify" if verify_count else "--backend pysodmetrics" if how.library else ""
    if flag and all(METRICS[key].group != "plain" for key in PROTOCOLS[protocol]):
        raise UserError(f"{flag} does not go with --protocol {protocol}: py-sod-metrics has no such columns")
    if flag or how.effort:
        import_extra("py_sod_metrics", "this needs pysodmetrics, which is not installed: pip install pysodmetrics")


def list_files_to_write(entries: Sequence[Entry], outputs: ScoreOutputs) -> list[str]:
    """Returns the names of all files that a run may write. Raises UserError if two data sets would write one file."""
    plots = name_plots(entry.dataset for entry in entries) if outputs.plots else {}
    return [*FILES, *(f"{name}.{ending}" for name in plots.values() for ending in ENDINGS)]


def prepare_parts(parts: Parts | None, entries: Sequence[Entry], how: ScoreOptions, missing: str) -> Parts | None:
    """Returns the parts with the facts of the run. Raises UserError if a part would overwrite another file."""
    if parts is None:
        return None
    if parts.shard:
        parts.refuse_other_file()
    return parts._replace(facts=describe_settings(entries, how, missing, versions(PACKAGES)))


def choose_surfaces(surfaces: SurfaceOptions | None, needed: bool) -> SurfaceOptions | None:
    """Returns the options if the columns need them. Raises UserError if the user gave options without need."""
    if surfaces and not needed:
        raise UserError("--spacing, --nsd_tolerance and --empty_masks need a --protocol with distances: medical")
    return (surfaces or SurfaceOptions()) if needed else None


def rerun(path: Path, outputs: ScoreOutputs) -> None:
    """Prints and writes the tables of an earlier `per_image.csv`, without the metrics that need curves."""
    if outputs.plots or outputs.report:
        raise UserError("--plots and --report need the images; --from reads only numbers")
    results = csv_files.read_per_image_csv(path)
    protocol = PROTOCOLS[outputs.protocol]
    columns = [key for key in protocol if all(key in result.table for result in results)]
    if not columns:
        raise UserError(f"{path} has none of the columns of {outputs.protocol}: {', '.join(protocol)}")
    if left_out := [key for key in protocol if key not in columns]:
        reason = (
            "they need curves, which are not in the file" if set(left_out) <= set(CURVE_METRICS) else "not in the file"
        )
        warn(f"left out: {', '.join(left_out)} ({reason})")
    write_and_print(results, columns, outputs, prepare_outputs(outputs))


def prepare_outputs(outputs: ScoreOutputs, names: Sequence[str] = FILES) -> Figures | None:
    """Returns the published figures. Makes the folder. Raises UserError if it holds results of another program."""
    figures = read_figures(outputs.expect) if outputs.expect else None
    if outputs.folder:
        make_folder(outputs.folder, "--save_dir")
        refuse_other_results(outputs.folder, names)
    return figures


def check_names(entries: Sequence[Entry]) -> None:
    """Raises UserError if two entries have the same data set and method."""
    names = [(entry.dataset, entry.method) for entry in entries]
    if twice := sorted({f"{d} {m}".strip() for d, m in names if names.count((d, m)) > 1}):
        raise UserError(f"named twice: {', '.join(twice)}; give each method its own name with --method")


def write_and_print(
    results: Sequence[MethodResult],
    columns: Sequence[str],
    outputs: ScoreOutputs,
    expected: Figures | None,
    verify_line: str = "",
    mask_threshold: ForegroundRule = None,
) -> None:
    """Writes the files, then prints the tables."""
    if expected and not any(set(find_figures(expected, r.dataset)) & set(columns) for r in results):
        names = ", ".join(expected)
        warn(f"--expect {outputs.expect} has no figure for these data sets and columns; its data sets are {names}")
    differences = compare(results, columns, METRICS if outputs.folder else ())
    shown = [d for d in differences if d.metric in columns]
    draw: list[Callable[[Path], object]] = []
    if outputs.plots:
        draw.append(lambda folder: write_plots(results, folder))
    if outputs.report:
        page = partial(
            write_report, results, columns=columns, mask_threshold=mask_threshold, limit=outputs.report_images
        )
        draw.append(lambda folder: page(folder / "report.html", differences=shown, command=outputs.command))
    texts = [tables.format_table(results, columns, expected)]
    if shown:
        texts.append(comparison_tables.format_comparison(shown))
    texts += [tables.format_legend(columns), *filter(None, [verify_line])]
    publish(outputs, lambda: make_contents(results, columns, outputs, differences), draw, texts)


def make_contents(
    results: Sequence[MethodResult], columns: Sequence[str], outputs: ScoreOutputs, differences: list[Difference]
) -> dict[str, Content]:
    """Returns the content of each file by name, without plots and report."""
    comparison = comparison_tables.to_json_dict(differences) if differences else None
    texts = {
        **make_paper_tables(results, columns, METRICS, differences),
        "table.csv": csv_files.csv_table(results, columns),
        "results.json": csv_files.results_json(results, dict(outputs.arguments), versions(PACKAGES), comparison),
    }
    contents: dict[str, Content] = {name: text.encode() for name, text in texts.items()}
    return contents | {"per_image.csv": map(str.encode, csv_files.per_image_csv(results, outputs.workers))}


def make_paper_tables(
    results: Sequence[MethodResult],
    columns: Sequence[str],
    metrics: Mapping[str, Metric],
    differences: list[Difference],
) -> dict[str, str]:
    """Returns `table.md` and `table.tex`: the scores, and the differences of methods if there are several."""
    texts = {
        "table.md": tables.format_markdown(results, columns, metrics),
        "table.tex": tables.format_latex(results, columns, metrics),
    }
    if shown := [d for d in differences if d.metric in columns]:
        texts["table.md"] += f"\n{comparison_tables.markdown_comparison(shown)}"
        texts["table.tex"] += f"\n{comparison_tables.latex_comparison(shown)}"
    return texts


def publish(
    outputs: ScoreOutputs,
    make_contents: Callable[[], Mapping[str, Content]],
    draw: Sequence[Callable[[Path], object]],
    texts: Sequence[str],
) -> None:
    """Writes all files or none, then prints `texts`. It prints even if the files cannot be written.

    `draw` functions write more files into a folder. If one raises UserError, the contents are written all the same.
    """
    names: list[str] = []
    try:
        if outputs.folder:
            names = write_files(outputs.folder, make_contents(), draw)
    finally:
        print_lines("\n\n".join(texts))
    if names:
        print_line()
        print_line(f"in {outputs.folder}: {', '.join(names)}")


def write_files(target: Path, contents: Mapping[str, Content], draw: Sequence[Callable[[Path], object]]) -> list[str]:
    """Writes all files or none. Returns their names."""
    failed = None
    with write_together(target) as folder:
        for name, content in contents.items():
            with write_atomic(folder / name) as file:
                file.writelines([content] if isinstance(content, bytes) else content)
        try:
            for function in draw:
                function(folder)
        except UserError as e:
            failed = e  # the numbers are written all the same
        names = sorted(path.name for path in folder.iterdir())
    if failed:
        raise failed
    return names
