"""Parts of an evaluation: `eval.py --shard I/N` writes one, and `--merge` joins them."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from ..atomic import write_atomic
from ..data.packed import Packed
from ..data.packed_files import find_missing
from ..errors import UserError, shortlist
from ..runtime.shards import Shard
from .aggregate import MethodResult
from .chunks import ChunkScores, choose_block
from .match import Entry
from .score_pair import ScoreOptions

NAME = re.compile(r"part-([1-9]\d{0,5})-of-([1-9]\d{0,5})\.npz")
KINDS = ("values", "sums", "notes")  # the arrays of a `ChunkScores`


class Parts(NamedTuple):
    """The parts of an evaluation in a folder."""

    folder: Path
    shard: Shard | None  # the shard to score; None to join all parts
    arguments: Mapping[str, object]  # the flags of the evaluation, which are stored in each part
    facts: Mapping[str, str] = {}  # what must be equal in all parts: settings, folders, versions

    @property
    def path(self) -> Path:
        """The file of the shard."""
        assert self.shard
        return self.folder / f"part-{self.shard.number}-of-{self.shard.count}.npz"

    def refuse_other_file(self) -> None:
        """Raises UserError if the file of the part exists and is no part."""
        if self.path.exists():
            read_header(self.path)


def describe_settings(
    entries: Sequence[Entry], how: ScoreOptions, missing: str, versions: Mapping[str, str | None]
) -> dict[str, str]:
    """Returns what must be equal in all parts, without the names of the files."""
    facts = {field.name: str(getattr(how, field.name)) for field in fields(how)} | {"missing": missing}
    for number, entry in enumerate(entries, 1):
        words = (entry.dataset, entry.method, entry.predictions, entry.masks, entry.slices or "")
        facts[f"data set {number}"] = " ".join(map(str, words)).strip()
    return facts | {f"version of {name}": str(version) for name, version in versions.items()}


def describe_files(results: Sequence[MethodResult]) -> dict[str, str]:
    """Returns the number of pairs of each data set, and a digest of their names and of the missing predictions."""
    facts = {}
    for number, result in enumerate(results, 1):
        names, maps = result.images, result.predictions
        assert isinstance(names, Packed) and isinstance(maps, Packed)
        digest = hashlib.sha256()
        for array in (names.content, names.ends, find_missing(maps)):
            digest.update(array.tobytes())
        facts[f"names of data set {number}"] = f"{len(names)} ({digest.hexdigest()[:16]})"
    return facts


def list_share(count: int, block: int, shard: Shard | None) -> tuple[ndarray, ndarray]:
    """Returns the places of the pairs and of the blocks of a shard, int64 each. The shards take blocks in turn."""
    blocks = range(-(-count // block))
    taken = np.array([shard is None or shard.takes(i) for i in blocks], bool)
    return np.flatnonzero(np.repeat(taken, block)[:count]), np.flatnonzero(taken)


def save_part(parts: Parts, results: Sequence[MethodResult], scores: Sequence[ChunkScores]) -> Path:
    """Writes the scores of a shard, completely or not at all. Returns the path. `results` are those of all pairs."""
    header = {"arguments": parts.arguments, "facts": {**parts.facts, **describe_files(results)}}
    arrays = {"header": np.frombuffer(json.dumps(header, default=str).encode(), np.uint8)}
    for number, chunk in enumerate(scores):
        for kind in KINDS:
            arrays |= {f"{number}/{kind}/{name}": array for name, array in getattr(chunk, kind).items()}
    with write_atomic(parts.path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes an array for `allow_pickle`
    return parts.path


def list_part_files(folder: Path) -> list[Path]:
    """Returns the files of all shards, in order. Raises UserError if some are missing, or of another division."""
    try:
        names = [path.name for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except OSError as e:
        raise UserError(f"cannot read the folder {folder}: {e.strerror}; give the --save_dir of --shard") from e
    if not names:
        raise UserError(
            f"no parts in {folder} (looked for part-1-of-N.npz); run the command with --shard 1/N and so on"
        )
    counts = sorted({int(match[2]) for name in names if (match := NAME.fullmatch(name))})
    if len(counts) > 1:
        divisions = " and of ".join(map(str, counts))
        raise UserError(f"{folder} has parts of {divisions} shards; remove the parts that you do not need")
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    paths = [Parts(folder, shard, {}).path for shard in shards]
    if missing := [shard for shard, path in zip(shards, paths, strict=True) if not path.exists()]:
        raise UserError(
            f"{len(missing)} of {len(paths)} parts are missing in {folder}; "
            f"run the command with --shard {shortlist(missing)}"
        )
    return paths


def read_arrays(path: Path, prefix: str) -> dict[str, ndarray]:
    """Returns the arrays of a part whose names start with `prefix`. Raises UserError for another or damaged file."""
    try:
        with np.load(path) as file:  # without pickle, so that a file cannot run code
            return {name: file[name] for name in file.files if name.startswith(prefix)}
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is damaged, or not a part of eval.py --shard; remove it and score it again") from e


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the `arguments` and the `facts` of a part. Raises UserError for another file."""
    try:
        header = json.loads(read_arrays(path, "header")["header"].tobytes())
        if isinstance(header["arguments"], dict) and isinstance(header["facts"], dict):
            return header
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path} is not a part of eval.py --shard; give another folder")


def read_parts(parts: Parts, results: Sequence[MethodResult]) -> Iterator[ChunkScores]:
    """Yields the scores of each result from the parts. UserError if a part is missing or does not fit the others."""
    paths = list_part_files(parts.folder)
    facts = {**parts.facts, **describe_files(results)}
    for path in paths:
        stored = read_header(path)["facts"]
        if different := [key for key in {**facts, **stored} if facts.get(key) != stored.get(key)]:
            texts = [f"{key} is {stored.get(key)} there and {facts.get(key)} now" for key in different]
            raise UserError(f"{path} does not fit the other parts and this run: {shortlist(texts, 3)}; score it again")
    for number, result in enumerate(results):
        yield join_parts(paths, number, len(result.images))


def join_parts(paths: Sequence[Path], number: int, count: int) -> ChunkScores:
    """Returns the scores of the `count` pairs of result `number`, in the order of a run without shards."""
    block = choose_block(count)
    values: dict[str, ndarray] = {}
    sums: dict[str, ndarray] = {}
    notes: dict[str, list[ndarray]] = {}
    order: dict[str, tuple[int, int]] = {}  # the first pair that has a note, and the place of the note in its part
    for index, path in enumerate(paths):
        pairs, blocks = list_share(count, block, Shard(index + 1, len(paths)))
        for place, (name, array) in enumerate(read_arrays(path, f"{number}/").items()):
            _, kind, key = name.split("/", 2)
            if kind == "notes":
                notes.setdefault(key, []).append(pairs[array])
                order[key] = min(order.get(key, (count, 0)), (int(pairs[array[0]]), place))
                continue
            target, places, length = (values, pairs, count) if kind == "values" else (sums, blocks, -(-count // block))
            if len(array) != len(places):
                raise UserError(f"{path} is damaged: it has {len(array)} rows instead of {len(places)}; score it again")
            if key not in target:
                target[key] = np.empty((length, *array.shape[1:]), array.dtype)
            target[key][places] = array
    joined = {note: np.sort(np.concatenate(notes[note])) for note in sorted(notes, key=lambda note: order[note])}
    return ChunkScores(count, values, sums, joined, [])
