"""Compares a certificate with what is on this disk."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..atomic import read_json, sha256
from ..data.pairs import EXTENSIONS
from ..errors import UserError, printable, shortlist
from ..limits import shorten
from ..recipe import ForegroundRule, make_foreground_rule
from ..run_command import ROOT
from ..runtime.parallel import map_files
from ..scoring.columns import METRICS, PROTOCOLS
from ..scoring.expected import read_figures
from ..scoring.match import Entry
from ..scoring.tables.score_tables import align_columns
from ..weights.weight_files import WeightPaths
from .certificate import VERSION, describe_environment
from .digests import digest_code
from .figures import Figure, score_again, summarize

SAME, DIFFERS, ABSENT = "same", "differs", "not here"
ROUNDING = 1e-6  # between the scores of two computers


class CheckRow(NamedTuple):
    part: str
    verdict: str  # SAME, DIFFERS or ABSENT
    detail: str = ""


def is_path_below(text: object) -> bool:
    """Returns whether text is a path below a folder, without `..`."""
    if not isinstance(text, str) or "\0" in text:
        return False
    path = PurePosixPath(text)
    return not path.is_absolute() and ".." not in path.parts


def is_number(value: object) -> bool:
    return value is None or isinstance(value, (int, float)) and abs(value) < 1e15


def is_optional(kind: type) -> Callable[[object], bool]:
    return lambda value: value is None or isinstance(value, kind)


class Each(NamedTuple):
    """The shape of an object whose keys are paths."""

    shape: object


FILES = Each(str)
FIGURE = {"dataset": str, "metric": METRICS.__contains__, "images": int, "seeds": [is_number], "published": is_number}
FIGURE |= {name: is_number for name in ("mean", "std", "low", "high")}
RUN = {"seed": int, "folder": is_path_below, "checkpoint": {"file": is_path_below, "sha256": str}, "maps": Each(FILES)}
STUDY = {"test": [is_path_below], "protocol": PROTOCOLS.__contains__, "expect": is_optional(str)}
SHAPE = {
    "configuration": {"study": STUDY, "recipe": dict},
    "method": str,
    "figures": [FIGURE],
    "runs": [RUN],
    "data": {"root": str, "sets": Each(FILES)},
    "weights": Each({"path": str, "sha256": str}),
    "code": {"files": FILES},
    "environment": {"system": str, "versions": dict},
}


def find_misfit(value: object, shape: Any, where: str = "") -> str | None:
    """Returns the place of the first value that does not have its `shape`, such as `data.root`; None if all have it.

    A shape is a type, a function that returns whether a value is right, a list with the shape of all items, or an
    object with the shapes of some keys.
    """
    if isinstance(shape, type):
        return None if isinstance(value, shape) else where
    if isinstance(shape, (dict, Each)):
        if not isinstance(value, dict):
            return where
        if isinstance(shape, Each):
            items = [(key, inner, shape.shape) for key, inner in value.items()]
            if bad := next((key for key in value if not is_path_below(key)), None):
                return f"{where}.{bad}"
        else:
            items = [(key, value.get(key), inner) for key, inner in shape.items()]
        inner = (find_misfit(item, wanted, f"{where}.{key}") for key, item, wanted in items)
        return next(filter(None, inner), None)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return where
        return next(filter(None, (find_misfit(item, shape[0], f"{where}[]") for item in value)), None)
    try:
        return None if shape(value) else where
    except TypeError:  # a value that cannot be a key
        return where


def read_certificate(path: Path) -> dict:
    """Reads a certificate. Raises UserError for any other file, and for paths that leave their folder."""
    advice = "give a certificate.json that reproduce.py wrote"
    content = read_json(path, advice)
    version = content.get("certificate_version")
    if version != VERSION:
        what = "is no certificate" if version is None else f"has the version {str(version)[:20]}; {VERSION} can be read"
        raise UserError(f"{path} {what}; {advice}")
    if wrong := find_misfit(content, SHAPE):
        raise UserError(f"{path} is damaged: {wrong[1:]} is missing or has a wrong value; {advice}")
    return content


def check_certificate(path: Path, data_root: Path | None, weight_paths: WeightPaths) -> Iterator[CheckRow]:
    """Yields a row for each part of a certificate: whether it is the same on this disk, differs, or is not here.

    Digests are only of regular files. The runs are in the folder of the certificate.

    Args:
        data_root: the folder of the data sets; None: the folder that the certificate names.
        weight_paths: files of weights by flag; for other flags the path that the certificate names.
    """
    content = read_certificate(path)
    root = data_root or Path(content["data"]["root"])
    for name, files in content["data"]["sets"].items():
        extra = [f"{kind}/{file}" for kind in ("images", "masks") for file in list_image_names(root / name / kind)]
        yield compare_files(f"data {name}", root / name, files, extra)
    for flag, file in content["weights"].items():
        weight = weight_paths.get(flag, Path(file["path"]))
        yield compare_files(f"weights --{flag}", weight.parent, {weight.name: file["sha256"]})
    yield compare_files("code", ROOT, content["code"]["files"], list(digest_code()))
    yield compare_environment(content["environment"])
    for run in content["runs"]:
        folder, title = path.parent / run["folder"], f"seed {run['seed']}"
        checkpoint = {run["checkpoint"]["file"]: run["checkpoint"]["sha256"]}
        yield compare_files(f"checkpoint, {title}", folder, checkpoint)
        for name, files in run["maps"].items():
            yield compare_files(f"maps {name}, {title}", folder / "maps" / name, files)
    yield from compare_figures(content, path.parent, root)


def list_image_names(folder: Path) -> list[str]:
    """Returns the names of the images in a folder; nothing if there is no such folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return [p.name for p in files if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]


def compare_files(part: str, folder: Path, digests: Mapping[str, str], names: Sequence[str] = ()) -> CheckRow:
    """Compares files in `folder` with their digests. `names`: all files that are there, to find those without digest.

    If no file is there, the part is not here.
    """
    now = dict(zip(digests, map_files(lambda name: digest_or_none(folder / name), list(digests)), strict=True))
    if not any(now.values()):
        return CheckRow(part, ABSENT, str(folder))
    changed = [name for name, digest in now.items() if digest and digest != digests[name]]
    lists = {"changed": changed, "missing": [name for name, digest in now.items() if not digest]}
    lists["new"] = sorted(set(names) - set(digests))
    detail = "; ".join(f"{len(names)} {what}: {shortlist(names)}" for what, names in lists.items() if names)
    return CheckRow(part, DIFFERS if detail else SAME, detail or f"{len(now)} file{'s' * (len(now) > 1)}")


def digest_or_none(path: Path) -> str | None:
    """Returns the SHA-256 of a regular file; None if there is no such file, or it cannot be read."""
    try:
        return sha256(path) if path.is_file() else None
    except OSError:
        return None


def compare_environment(then: Mapping) -> CheckRow:
    """Compares the system and the versions of packages."""
    now = describe_environment()
    pairs = {"system": (then["system"], now["system"])}
    pairs |= {name: (then["versions"].get(name), version) for name, version in now["versions"].items()}
    differences = [f"{name} was {shorten(old)}, is {new}" for name, (old, new) in pairs.items() if old != new]
    return CheckRow("environment", DIFFERS if differences else SAME, "; ".join(differences))


def compare_figures(content: Mapping, folder: Path, root: Path) -> Iterator[CheckRow]:
    """Yields a row for each test set: its figures, computed again from the maps and masks that are here."""
    study = content["configuration"]["study"]
    published = read_figures(study["expect"]) if study["expect"] else {}
    rule = read_rule(content["configuration"]["recipe"])
    for name in study["test"]:
        part = f"figures {name}"
        masks, below = root / name / "masks", Path("maps", Path(name).name)
        maps = [folder / run["folder"] / below for run in content["runs"]]
        if not maps or not all(path.is_dir() for path in (masks, *maps)):
            yield CheckRow(part, ABSENT, "computed again only if masks and maps are here")
            continue
        try:
            entries = [Entry(name, content["method"], path, masks) for path in maps]
            results = score_again(entries, study["protocol"], rule)
        except UserError as e:
            yield CheckRow(part, DIFFERS, str(e))
            continue
        then = {figure["metric"]: figure for figure in content["figures"] if figure["dataset"] == name}
        now = summarize([[result] for result in results], study["protocol"], published)
        detail = [text for figure in now if (text := describe_difference(then.get(figure.metric), figure))]
        yield CheckRow(part, DIFFERS if detail else SAME, "; ".join(detail) or f"{len(now)} metrics, computed again")


def read_rule(recipe: Mapping) -> ForegroundRule:
    """Returns the rule for mask values. Raises UserError if the values in the certificate are no such rule."""
    threshold, values = recipe.get("mask_threshold"), recipe.get("foreground", [])
    if find_misfit([threshold], [is_optional(int)]) or find_misfit(values, [int]):
        raise UserError("the recipe in the certificate has a wrong mask_threshold or foreground")
    return make_foreground_rule(threshold, values)


def describe_difference(then: Mapping | None, now: Figure) -> str:
    """Returns the first number that differs, such as `S mean was 0.884213, is 0.881`; empty if there is none."""
    title = METRICS[now.metric].title
    if then is None or len(then["seeds"]) != len(now.seeds):
        return f"{title} is not complete in the certificate"
    pairs = {name: (then[name], getattr(now, name)) for name in ("mean", "std", "low", "high", "published")}
    pairs |= {f"of run {i}": pair for i, pair in enumerate(zip(then["seeds"], now.seeds, strict=True), start=1)}
    texts = (f"{title} {name} was {old}, is {new}" for name, (old, new) in pairs.items() if not is_close(old, new))
    return next(texts, "")


def is_close(old: float | None, new: float | None) -> bool:
    """Returns whether two numbers are equal, except for rounding. None and NaN are the same."""
    old, new = (math.nan if value is None else value for value in (old, new))
    if math.isnan(old) or math.isnan(new):
        return math.isnan(old) and math.isnan(new)
    return abs(old - new) <= ROUNDING * max(1, abs(old))


def format_rows(rows: Sequence[CheckRow]) -> str:
    """Returns a table with aligned columns."""
    titles = ("part", "verdict", "detail")
    return align_columns([(title, [printable(row[i]) for row in rows]) for i, title in enumerate(titles)], [])
