"""The certificate: everything that a published table depends on, as JSON."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..atomic import read_json, sha256, write_atomic
from ..data.volumes.slices import Source, find_file
from ..errors import UserError
from ..recipe import PROMPT_FIELDS, Study
from ..run_command import ROOT
from ..runtime.versions import versions
from ..scoring import evaluate
from ..scoring.tables.csv_files import json_number
from ..training import run_record
from ..training.metrics_log import read_kept_lines
from ..weights.weight_files import WEIGHT_FLAGS
from .digests import Digests, digest_code, digest_files
from .figures import Figure
from .leakage import SetLeakage
from .study import SeedRun, StudyInputs

VERSION = 1
NAME, PAGE = "certificate.json", "certificate.html"
PACKAGES = tuple(dict.fromkeys([*run_record.PACKAGES, *evaluate.PACKAGES]))
WEIGHTS = (*WEIGHT_FLAGS, "init_from")  # the flags of train.py that take a file of weights


def build_certificate(
    inputs: StudyInputs,
    folder: Path,
    runs: Sequence[SeedRun],
    data: Mapping[str, Digests],
    leakage: Mapping[str, SetLeakage],
    figures: Sequence[Figure],
) -> dict[str, object]:
    """Returns the content of `certificate.json` in `folder`. `data` has the digests of each data set."""
    records = [read_record(run) for run in runs]
    recipe = {name: value for name, value in runs[0].recipe.to_dict().items() if name not in ("seed", *PROMPT_FIELDS)}
    return {
        "certificate_version": VERSION,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": inputs.command,
        "configuration": {"file": str(inputs.config), "study": describe_study(inputs.study), "recipe": recipe},
        "method": runs[0].title,
        "seeds": [run.recipe.seed for run in runs],
        "figures": [figure_to_dict(figure) for figure in figures],
        "leakage": {name: leakage_to_dict(found, inputs.root) for name, found in leakage.items()},
        "runs": [describe_run(run, record, folder) for run, record in zip(runs, records, strict=True)],
        "data": {"root": str(inputs.root.resolve()), "sets": dict(data)},
        "weights": list_weights(records[0]),
        "code": {"git": run_record.read_git_state(ROOT), "files": digest_code()},
        "environment": describe_environment(),
    }


def describe_study(study: Study) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(study).items()}


def describe_environment() -> dict[str, Any]:
    return {"system": platform.platform(), "versions": versions(PACKAGES)}


def read_record(run: SeedRun) -> list[dict]:
    """Returns the records of the starts of a training, the first one first. Leaves out starts after its end."""
    first = read_json(run.folder / "run.json", "give another --save_path")
    end = run.checkpoint.stat().st_mtime
    later = [record for record in first.pop("resumed", []) if start_time(record) <= end]
    return [first, *later]


def start_time(record: Mapping[str, str]) -> float:
    return datetime.fromisoformat(record["started"]).timestamp()


def describe_run(run: SeedRun, records: Sequence[Mapping], folder: Path) -> dict[str, object]:
    """Describes the run of one seed, with the digests of its checkpoint and its maps."""
    starts = [{key: record.get(key) for key in ("started", "device", "versions", "git")} for record in records]
    return {
        "seed": run.recipe.seed,
        "folder": run.folder.relative_to(folder).as_posix(),
        "hours": measure_hours(run.folder, records[0]["data"]["count"]),
        "starts": starts,
        "checkpoint": {"file": run.checkpoint.name, "sha256": sha256(run.checkpoint)},
        "maps": {target.name: digest_files(target, sorted(target.glob("*.png"))) for target in run.maps},
    }


def measure_hours(folder: Path, count: int) -> float | None:
    """Returns the hours of all epochs with `count` images, from `metrics.jsonl`; None if it has no epochs.

    An epoch that was interrupted counts as if all of it had the speed of its last part.
    """
    lines = read_kept_lines(folder / "metrics.jsonl", sys.maxsize)
    rates = [json.loads(line).get("images_per_second") for kind, _, line in lines if kind == "epoch"]
    return sum(count / rate for rate in rates) / 3600 if rates and all(rates) else None


def list_weights(records: Sequence[Mapping]) -> dict[str, dict[str, str]]:
    """Returns path and digest of each file of weights that the training started from, by its flag."""
    arguments, digests = records[0].get("arguments", {}), records[0].get("weights", {})
    paths = {flag: Path(arguments[flag]) for flag in WEIGHTS if flag in arguments}
    return {
        flag: {"path": str(path.resolve()), "sha256": digests[path.name]}
        for flag, path in paths.items()
        if path.name in digests
    }


def figure_to_dict(figure: Figure) -> dict[str, object]:
    numbers: dict[str, object] = {"seeds": [json_number(value) for value in figure.seeds]}
    numbers |= {name: json_number(getattr(figure, name)) for name in ("mean", "std", "low", "high")}
    published = {"published": figure.published, "published_figure_is": figure.place or None}
    return {"dataset": figure.dataset, "metric": figure.metric, "images": figure.images} | numbers | published


def leakage_to_dict(found: SetLeakage, root: Path) -> dict[str, object]:
    def name(path: Source) -> str:
        return find_file(path).relative_to(root).as_posix()

    near = None if found.near is None else [[name(t.other), name(t.image), t.distance] for t in found.near]
    return {"images": found.images, "equal": [[name(a), name(b)] for a, b in found.equal.items()], "near": near}


def write_certificate(content: Mapping[str, object], path: Path) -> None:
    with write_atomic(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def refuse_other_certificate(folder: Path) -> None:
    """Raises UserError if `folder` has a certificate that this script did not write."""
    paths = [path for path in (folder / NAME, folder / PAGE) if path.exists()]
    try:
        ours = "certificate_version" in read_json(folder / NAME)
    except UserError:
        ours = False
    if paths and not ours:
        raise UserError(f"{paths[0]} exists, and reproduce.py did not write it; give another --save_path")
