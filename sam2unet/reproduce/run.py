"""Runs a study: leakage check, all seeds, the table of figures, and the certificate."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..data.pairs import list_files
from ..errors import UserError, print_line, print_lines, printable
from ..limits import check_numbers
from ..recipe import Recipe
from ..scoring.columns import METRICS
from ..scoring.expected import read_figures
from ..scoring.tables.score_tables import align_columns
from .certificate import NAME, PAGE, build_certificate, refuse_other_certificate, write_certificate
from .digests import digest_set
from .figures import Figure, explain_figures, read_results, summarize
from .leakage import SetLeakage, describe_leakage, find_leakage, warn_leakage
from .page import describe_place, write_page
from .study import StudyInputs, check_study, run_seed


def run(inputs: StudyInputs, folder: Path, seeds: Sequence[int]) -> None:
    """Trains with each seed, or continues. Writes the certificate into `folder` and prints the figures.

    Raises UserError before the training for everything that would end the run after it.
    """
    check_study(inputs)
    folders = choose_seed_folders(folder, seeds)
    refuse_other_certificate(folder)
    study = inputs.study
    leakage = compare_sets(inputs)
    warn_leakage(leakage)
    data = {name: digest_set(inputs.root / name) for name in (*study.train, *study.test)}
    runs = []
    for number, (seed, seed_folder) in enumerate(zip(seeds, folders, strict=True), start=1):
        if len(seeds) > 1:
            print_line()
            print_line(f"seed {seed}, {number} of {len(seeds)}, in {seed_folder}")
        runs.append(run_seed(inputs, seed_folder, seed))
    published = read_figures(study.expect) if study.expect else {}
    figures = summarize([read_results(inputs, run) for run in runs], study.protocol, published)
    content = build_certificate(inputs, folder, runs, data, leakage, figures)
    write_certificate(content, folder / NAME)  # first, because it shows that the page is of this script
    write_page(content, figures, folder / PAGE)
    sentences = "\n".join(explain_figures(figures, seeds))
    print_lines(f"\n{format_figures(figures, leakage)}\n\n{sentences}\n\nin {printable(folder)}: {PAGE}, {NAME}")


def compare_sets(inputs: StudyInputs) -> dict[str, SetLeakage]:
    """Returns the leakage of each test set."""
    train = [image for path in inputs.train for image in list_files(path / "images")]
    tests = {name: list_files(inputs.root / name / "images") for name in inputs.study.test}
    return find_leakage(train, tests)


def choose_seeds(config: Path, first_seed: int | None, count: int) -> range:
    """Returns `count` seeds that follow each other. `first_seed`: the first one; None is the seed of the recipe.

    Raises UserError if there are too many, or one is too large.
    """
    check_numbers({"seeds": count})
    recipe = Recipe.read(config, seed=first_seed)
    last = replace(recipe, seed=recipe.seed + count - 1)  # checks the limit
    return range(recipe.seed, last.seed + 1)


def choose_seed_folders(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """Returns the folder of each seed. One seed uses `folder` itself, several use `seed_N` in it.

    A run of one seed that is in `folder` is the run of the first of several seeds. UserError for the reverse.
    """
    folders = [folder / f"seed_{seed}" for seed in seeds]
    if len(seeds) > 1:
        return [folder, *folders[1:]] if (folder / "run.json").is_file() else folders
    if next(folder.glob("seed_*/run.json"), None):
        raise UserError(f"{folder} has the runs of several seeds; give --seeds N, or another --save_path")
    return [folder]


def format_figures(figures: Sequence[Figure], leakage: dict[str, SetLeakage]) -> str:
    """Returns the table of figures with aligned columns."""
    found = [leakage[f.dataset] for f in figures]
    left = [
        ("dataset", [printable(f.dataset) for f in figures]),
        ("metric", [METRICS[f.metric].title for f in figures]),
    ]
    right = [
        ("images", [str(f.images) for f in figures]),
        ("mean", [f.format(f.mean) for f in figures]),
        ("std", [f.format(f.std, 1) for f in figures]),
        ("95 % interval", [f"[{f.format(f.low)}, {f.format(f.high)}]" for f in figures]),
        ("paper", [f.format(f.published) for f in figures]),
        ("paper is", [describe_place(f) for f in figures]),
        ("leakage", [describe_leakage(len(e.equal), None if e.near is None else len(e.near)) for e in found]),
    ]
    return align_columns(left, right)
