"""Formats differences of methods for the terminal, for Markdown, for LaTeX and for JSON."""

import math

from ...errors import printable
from ..compare import RESAMPLES, SEED, Difference
from .csv_files import json_number
from .score_tables import Column, align_columns, escape_latex, latex_table, markdown_table, markdown_text

NOTE = (
    f"95 % interval: paired bootstrap over images, {RESAMPLES} resamples. If it contains 0, the difference may be\n"
    "chance in the choice of images. It ignores what another training run would change.\n"
    f"p: paired permutation test of images that swap their maps, at most {RESAMPLES} patterns, with Holm's correction\n"
    "over the metrics of two methods. If p is small, equal methods would rarely differ as much."
)
FEW = "With fewer than 20 images, the interval is too narrow."


def format_comparison(differences: list[Difference]) -> str:
    """Returns an aligned table with a note that explains it."""
    left, right = comparison_columns(differences)
    verdicts = ("", [d.verdict.ljust(len("better")) for d in differences])
    return f"{align_columns(left, [*right, verdicts])}\n\n{explain_comparison(differences)}"


def markdown_comparison(differences: list[Difference]) -> str:
    """Returns a pipe table and the note."""
    left, right = comparison_columns(differences)
    names = [(title, [markdown_text(cell) for cell in cells]) for title, cells in left]
    verdicts = ("", [d.verdict for d in differences])
    return f"{markdown_table(names, [*right, verdicts])}\n{explain_comparison(differences)}\n"


def latex_comparison(differences: list[Difference]) -> str:
    """Returns a booktabs tabular with a block of rows for each pair of methods. The note is a comment."""
    left, right = comparison_columns(differences)
    names = [(title.capitalize(), [escape_latex(cell) for cell in cells]) for title, cells in left]
    titles = {"images": "Images", "left out": "Left out", "mean": "Mean", "p (Holm)": "$p$ (Holm)"}
    numbers = [
        (titles.get(title, escape_latex(title)), [f"${c}$" if c[:1] in "+-[" else c for c in cells])
        for title, cells in right
    ]
    pairs = [(d.dataset, d.method) for d in differences]
    comment = "".join(f"% {line}\n" for line in explain_comparison(differences).splitlines())
    return comment + latex_table(names, numbers, [i > 0 and pairs[i] != pairs[i - 1] for i in range(len(pairs))])


def comparison_columns(differences: list[Difference]) -> tuple[list[Column], list[Column]]:
    """Returns the columns of names, and those of numbers."""
    left = [
        ("dataset", [printable(d.dataset) for d in differences]),
        ("difference", [printable(f"{d.method} - {d.baseline}") for d in differences]),
        ("metric", [printable(d.column.title) for d in differences]),
    ]
    right = [
        ("images", [str(d.images) for d in differences]),
        ("left out", [str(d.left_out) for d in differences]),
        ("mean", [format_signed(d, d.mean) for d in differences]),
        ("95 % interval", [format_interval(d) for d in differences]),
        ("p (Holm)", [format_p(d.p_holm) for d in differences]),
    ]
    if not any(d.left_out for d in differences):
        del right[1]
    return left, right


def format_interval(d: Difference) -> str:
    return f"[{format_signed(d, d.low)}, {format_signed(d, d.high)}]"


def format_signed(d: Difference, value: float) -> str:
    return "--" if math.isnan(value) else f"{value:+.{d.column.digits + 1}f}"


def format_p(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.4f}"


def explain_comparison(differences: list[Difference]) -> str:
    return f"{NOTE}\n{FEW}" if any(d.images < 20 for d in differences) else NOTE


def to_json_dict(differences: list[Difference]) -> dict:
    """Returns the differences by data set, method and metric for JSON; None if a number is not defined."""
    datasets: dict[str, dict] = {}
    for d in differences:
        dataset = datasets.setdefault(d.dataset, {"baseline": d.baseline, "methods": {}})
        numbers = {"difference": json_number(d.mean), "low": json_number(d.low), "high": json_number(d.high)}
        tests = {"p": json_number(d.p), "p_holm": json_number(d.p_holm)}
        counts = {"images": d.images, "left_out": d.left_out}
        dataset["methods"].setdefault(d.method, {})[d.metric] = numbers | tests | counts
    return {"level": 0.95, "resamples": RESAMPLES, "seed": SEED, "datasets": datasets}
