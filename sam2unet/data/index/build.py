"""Builds an index of images and masks. A build that is interrupted goes on where it was."""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from tqdm import tqdm

from ...atomic import claim_folder, read_json
from ...errors import UserError, print_line, warn
from ...limits import check_numbers
from .check_files import check_files
from .columns import COLUMNS, FACTS, FORMAT, PLAN, Index, describe_source, load_column, write_facts
from .faults import WORDS, Fault, find_known_fault
from .listing import ColumnWriter, list_all


def build_index(sources: Sequence[Path], folder: Path, sample: float = 1.0, workers: int | None = None) -> Index:
    """Builds the index of folders and archives in `folder`. Raises UserError if it cannot.

    Args:
        sample: the fraction of the images whose files are read and checked, above 0 to 1.
        workers: the number of processes. None: one for each core.
    """
    if not 0 < sample <= 1:
        raise UserError(f"sample is {sample}; it must be above 0 and at most 1, for example 0.01")
    check_numbers({"workers": workers})
    sources = [locate_source(path, folder) for path in sources]
    known = set(sources)
    inside = [path for path in sources if path.is_dir() and not known.isdisjoint(path.parents)]
    if inside or len(known) < len(sources):
        what = f"{inside[0]} is inside another source" if inside else "a source is given twice"
        raise UserError(f"{what}, so that its images would count twice; leave it out")
    plan: dict[str, Any] = {"format": FORMAT, "sources": [describe_source(path) for path in sources]}
    claim_folder(folder, "index")
    with lock_build(folder):
        if (folder / FACTS).is_file():
            raise UserError(f"{folder} holds a complete index; give another --save_path")
        if not (folder / PLAN).is_file():
            plan["names"] = list_entries(sources, folder)
            write_facts(folder, PLAN, plan)
        elif (started := read_json(folder / PLAN))["sources"] != plan["sources"]:
            raise UserError(f"{folder} holds an unfinished index of other sources; give another --save_path")
        else:
            plan = started
            print_line(f"the build of {folder} goes on")
        index = Index.open_columns(folder, plan)
        check_files(index, sample, workers)
        facts = plan | count_entries(index) | {"sample": sample, "digest": compute_digest(folder)}
        write_facts(folder, FACTS, facts)
        (folder / PLAN).unlink()
    return Index.open(folder)


def locate_source(path: Path, folder: Path) -> Path:
    """Returns the whole path of a source. Raises UserError if it does not exist, or the index would be inside it.

    A file keeps its name if it is a link, because the target in the cache of Hugging Face has no extension.
    """
    if not path.exists():
        raise UserError(f"no such folder or archive: {path}")
    if not path.is_dir():
        return path.parent.resolve() / path.name
    if folder.resolve().is_relative_to(path.resolve()):
        raise UserError(f"--save_path {folder} is inside {path}, which the index lists; give another folder")
    return path.resolve()


@contextmanager
def lock_build(folder: Path) -> Iterator[None]:
    """A context for one process at a time. Raises UserError if another process is in it."""
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, also if its workers live on
        except (BlockingIOError, PermissionError) as e:
            raise UserError(f"another process builds the index in {folder}; wait for it") from e
        except OSError:  # a file system without locks
            pass
        yield


def list_entries(sources: Sequence[Path], folder: Path) -> dict[str, list[str]]:
    """Lists all files and writes the columns. Returns the names of modalities and data sets, in order of numbers."""
    with ExitStack() as stack:
        listing = ColumnWriter(folder, stack)
        for number, source, role in tqdm(list_all(sources), desc="listing", unit="file", leave=False, disable=None):
            listing.add(number, source, role)
        listing.write()
    return {kind: list(numbers) for kind, numbers in listing.names.items()}


def count_entries(index: Index) -> dict[str, object]:
    """Returns the number of images by modality and data set, of masks by class, and of faults."""
    columns, names = index.table.facts, index.facts["names"]
    counts: dict[str, object] = {"images": len(index.table.images), "masks": len(index.order)}
    for kind in ("modality", "dataset"):
        numbers = np.bincount(columns[f"image_{kind}"], minlength=len(names[kind]))
        counts[kind] = dict(zip(names[kind], numbers.tolist(), strict=True))
    classes, numbers = np.unique(columns["mask_class"][index.order], return_counts=True)
    counts["class"] = dict(zip(map(str, classes.tolist()), numbers.tolist(), strict=True))
    counts["checked"] = count_flag(columns["image_fault"], Fault.CHECKED)
    counts["faults"] = {
        fault.name: {kind: count_flag(columns[f"{kind}_fault"], fault) for kind in ("image", "mask")} for fault in WORDS
    }
    return counts


def count_flag(faults: ndarray, fault: Fault) -> int:
    return int(np.count_nonzero(faults & fault))


def compute_digest(folder: Path) -> str:
    """Returns the SHA-256 of all columns. It tells whether two indexes are the same."""
    digest = hashlib.sha256()
    for name in ("image_places", "image_ends", "mask_places", "mask_ends", "order", "ends", *COLUMNS):
        column = load_column(folder, name)
        for start in range(0, len(column), 1 << 22):
            digest.update(np.ascontiguousarray(column[start : start + (1 << 22)]).data)
    return digest.hexdigest()


def describe_index(index: Index) -> None:
    """Prints what is in an index, and what is wrong with its files."""
    facts = index.facts
    print_line(f"{facts['images']} images with {facts['masks']} masks in {index.folder}")
    for kind in ("modality", "dataset"):
        if set(facts[kind]) - {""}:
            largest = sorted(facts[kind].items(), key=lambda item: -item[1])[:10]
            more = f" and {len(facts[kind]) - 10} more" if len(facts[kind]) > 10 else ""
            print_line(f"{kind}: {', '.join(f'{name} {count}' for name, count in largest)}{more}")
    for name, counts in facts["faults"].items():
        if any(counts.values()):
            what = "are kept for training" if name == "SOFT" else "are left out"
            warn(f"{counts['image']} images and {counts['mask']} masks {what}: {WORDS[Fault[name]]}")
    if facts["faults"]["KNOWN"]["image"]:
        known = {name: fault for name in facts["dataset"] if (fault := find_known_fault(name))}
        warn(f"known faults: {', '.join(f'{name} ({fault.words})' for name, fault in known.items())}")
    if facts["sample"] < 1:
        print_line(
            f"checked {facts['checked']} of {facts['images']} images (--sample {facts['sample']:g}); other files are "
            "checked when they are read"
        )
