"""Chooses images and masks of an index: by conditions, by a split of the cases, and without faults."""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ...atomic import read_json
from ...errors import UserError, print_line, shortlist, warn
from ..order import STEP, mix
from .columns import Index
from .faults import BAD, WORDS, Fault
from .listing import hash_text
from .table import Items, pick_type

NAME_COLUMNS = ("modality", "dataset")  # columns with names; patterns with * are allowed
MASK_COLUMNS = ("class", "instance", "foreground")
CHECKED_COLUMNS = ("foreground", "width", "height")  # the numbers that only the check of a file knows
NUMBER_COLUMNS = (*MASK_COLUMNS, "width", "height")
CONDITION = re.compile(r"\s*(\w+)\s*(!=|=|<|>)\s*(.+?)\s*")
EXAMPLE = "for example: modality=ct and dataset!=Brain_PTM"


@dataclass(frozen=True)
class IndexQuery:
    """Which part of an index a run uses. Raises UserError for a condition or a split that cannot be understood."""

    index: Path
    where: str | None = None  # conditions that are joined by `and`
    # `case:0.9`: nine of ten cases are for training, the others are held out. A case stays in one part.
    split: str | None = None
    balance: str | None = None  # `dataset`: every data set is drawn equally often in training

    def __post_init__(self) -> None:
        if self.where is not None:
            parse_conditions(self.where)
        if self.split is not None:
            parse_split(self.split)
        if self.balance not in (None, *NAME_COLUMNS):
            raise UserError(f"--balance is {self.balance}; wanted {' or '.join(NAME_COLUMNS)}")

    @property
    def facts(self) -> dict[str, object]:
        """Returns the fields that decide which samples a run uses."""
        return {name: getattr(self, name) for name in ("where", "split", "balance")}


@dataclass(frozen=True)
class IndexPart:
    """The images of an index that a run uses."""

    items: Items
    ones: int  # the number of masks with the values 0 and 1
    groups: ndarray | None = None  # with `balance`, the first position of each group in `items`, and the end, (G + 1,)


def parse_conditions(text: str) -> list[tuple[str, str, str]]:
    """Returns (column, operator, value) for each condition. Raises UserError for other text."""
    conditions = []
    for part in re.split(r"\s+and\s+", text.strip()):
        match = CONDITION.fullmatch(part)
        if not match or match[1] not in (*NAME_COLUMNS, *NUMBER_COLUMNS, "case"):
            columns = ", ".join((*NAME_COLUMNS, "case", *NUMBER_COLUMNS))
            raise UserError(f"--where has the part {part!r}; wanted COLUMN=VALUE, {EXAMPLE}; the columns are {columns}")
        column, operator, value = match.groups()
        if column in NUMBER_COLUMNS and not all(re.fullmatch(r"-?\d{1,9}", number) for number in value.split("|")):
            raise UserError(f"--where has {part!r}; {column} is a number, and = != < > compare it")
        if operator in "<>" and (column not in NUMBER_COLUMNS or "|" in value):
            raise UserError(f"--where has {part!r}; < and > are for one number")
        conditions.append((column, operator, value))
    return conditions


def parse_split(text: str) -> float:
    """Returns the fraction of `case:0.9`. Raises UserError for other text."""
    match = re.fullmatch(r"case:(0?\.\d+)", text)
    if not match or not 0 < float(match[1]) < 1:
        raise UserError(f"--split is {text}; wanted case:F with the fraction for training, for example case:0.9")
    return float(match[1])


def select_items(
    index: Index,
    query: IndexQuery,
    seed: int,
    held_out: bool,
    rule: object = None,
    strict: bool = False,
    only_images: bool = False,
) -> IndexPart:
    """Returns the images for training, or those that `--split` holds out. Prints how many masks are left out.

    Raises UserError if no image is left.

    Args:
        rule: the rule for the foreground, if there is one. Then the check of the values of masks does not count,
            because it was made without the rule.
        strict: also leave out masks with soft edges.
        only_images: the masks are not read, so that their faults do not count.
    """
    ends, order = index.table.ends, index.order
    counts = np.diff(ends, prepend=0)  # of the masks of each image
    chosen = choose_masks(index, query, seed, held_out)
    bad = BAD if rule is None else BAD & ~(Fault.CODING | Fault.EMPTY)
    bad |= Fault.SOFT if strict and rule is None else Fault(0)
    faults = np.repeat(index.column("image_fault"), counts)
    if not only_images:
        faults |= index.column("mask_fault")[order]
    report_faults(faults[chosen], bad)
    chosen &= faults & int(bad) == 0
    ones = int(np.count_nonzero(chosen & (faults & Fault.ONES != 0)))
    kind = pick_type(len(order))
    totals = np.zeros(len(order) + 1, kind)
    np.cumsum(chosen, out=totals[1:])
    counts = totals[ends] - totals[ends - counts]  # of the chosen masks
    rows = np.flatnonzero(counts).astype(kind)
    if not len(rows):
        what = "the held-out part" if held_out else "the part for training" if query.split else "the chosen part"
        raise UserError(f"{query.index}: {what} has no image without faults; change --where or --split")
    items = Items(index.table, rows, order[chosen], np.cumsum(counts[rows], dtype=kind))
    if not query.balance:
        return IndexPart(items, ones)
    groups = index.column(f"image_{query.balance}")[items.rows]
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    return IndexPart(items.reorder(by_group), ones, np.append(starts, len(rows)))


def choose_masks(index: Index, query: IndexQuery, seed: int, held_out: bool) -> ndarray:
    """Returns which masks, in the order of `index.order`, the conditions and the split keep, bool."""
    is_kept, is_mask_kept = np.ones(len(index.table.images), bool), np.ones(len(index.table.masks), bool)
    for column, operator, value in parse_conditions(query.where) if query.where else ():
        kept = is_mask_kept if column in MASK_COLUMNS else is_kept
        kept &= find_rows(index, column, operator, value)
    if query.split:
        is_kept &= is_held_out(index.column("image_case"), parse_split(query.split), seed) == held_out
    return np.repeat(is_kept, np.diff(index.table.ends, prepend=0)) & is_mask_kept[index.order]


def find_rows(index: Index, column: str, operator: str, value: str) -> ndarray:
    """Returns which images, or masks for a column of masks, fulfil a condition, bool."""
    if column in CHECKED_COLUMNS and index.facts["checked"] < index.facts["images"]:
        raise UserError(
            f"--where {column} needs the check of all files, but {index.folder} was made with --sample "
            f"{index.facts['sample']:g}; make the index again without it"
        )
    if column in NAME_COLUMNS:
        names = index.facts["names"][column]
        kept = set[int]()
        for part in value.split("|"):
            found = [i for i, name in enumerate(names) if fnmatchcase(name, part)]
            if not found:
                raise UserError(f"--where has {part}, but no {column} has this name; there are {shortlist(names)}")
            kept.update(found)
        rows = np.isin(index.column(f"image_{column}"), list(kept))
    elif column == "case":
        cases, parts = index.column("image_case"), value.split("|")
        hashes = np.array([hash_text(part) for part in parts], np.uint64)
        if absent := [part for part, is_there in zip(parts, np.isin(hashes, cases), strict=True) if not is_there]:
            raise UserError(f"--where has {shortlist(absent)}, but no case has this name; wanted DATASET/CASE, whole")
        rows = np.isin(cases, hashes)
    else:
        kind = "mask" if column in MASK_COLUMNS else "image"
        values, numbers = index.column(f"{kind}_{column}"), [int(number) for number in value.split("|")]
        if operator in "<>":
            return values < numbers[0] if operator == "<" else values > numbers[0]
        rows = np.isin(values, numbers)
    return rows if operator == "=" else ~rows


def is_held_out(cases: ndarray, fraction: float, seed: int) -> ndarray:
    """Returns whether each image is held out, bool. All images of a case have the same hash, uint64, so they agree."""
    mixed = mix(cases + STEP * np.array([seed + 1], np.uint64))  # each seed holds out other cases
    return mixed >= np.uint64(int(fraction * 2**64))


def report_faults(faults: ndarray, bad: Fault) -> None:
    """Prints how many of the chosen masks are left out, and why."""
    counts = {fault: int(np.count_nonzero(faults & fault)) for fault in WORDS if fault & bad}
    if total := int(np.count_nonzero(faults & int(bad))):
        reasons = "; ".join(f"{count}: {WORDS[fault]}" for fault, count in counts.items() if count)
        print_line(f"{total} of {len(faults)} masks are left out ({reasons})")


class IndexTest(NamedTuple):
    """The images of an index for a test."""

    opened: Index
    items: Items
    facts: dict[str, object]  # what decides which images these are


def open_index_test(query: IndexQuery, seed: int, rule: object = None, only_images: bool = False) -> IndexTest:
    """Opens an index and returns the images that `--split` holds out, or all without split.

    `rule` and `only_images` are as in `select_items`.
    """
    index = Index.open(query.index)
    held_out = query.split is not None
    part = select_items(index, query, seed, held_out, rule, strict=True, only_images=only_images)
    return IndexTest(index, part.items, {"index_sha256": index.facts["digest"], "seed": seed} | query.facts)


def warn_of_training_cases(query: IndexQuery, record: Path) -> None:
    """Warns if a test uses cases that the model was trained on. `record` is the `run.json` of the training, if any."""
    data = read_json(record, "move it away").get("data") if record.is_file() else None
    if not isinstance(data, dict) or data.get("index_sha256") != Index.open(query.index).facts["digest"]:
        return
    fraction = parse_split(str(data["split"])) if data.get("split") else 1.0
    if fraction > (parse_split(query.split) if query.split else 0.0):
        then, now = (f"--split {split}" if split else "no --split" for split in (data.get("split"), query.split))
        warn(
            f"the model was trained on this index with {then}. With {now}, it is also tested on cases that it has "
            "seen in training, so the scores are too good"
        )


class IndexParts(NamedTuple):
    """The images of an index for training and for validation."""

    training: IndexPart
    held_out: Items | None  # None without `--split`
    facts: dict[str, object]  # what decides which samples a run uses; a run that resumes must have the same


def open_index_parts(query: IndexQuery, seed: int, rule: object = None, strict: bool = False) -> IndexParts:
    """Opens an index and returns its parts. `rule` is as in `select_items`, `strict` too, for the held-out part."""
    index = Index.open(query.index)
    training = select_items(index, query, seed, held_out=False, rule=rule)
    facts = {"count": len(training.items), "index_sha256": index.facts["digest"]} | query.facts
    if not query.split:
        return IndexParts(training, None, facts)
    held_out = select_items(index, replace(query, balance=None), seed, True, rule, strict).items
    return IndexParts(training, held_out, facts)
