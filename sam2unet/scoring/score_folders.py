"""Scores folders of maps on several processes. Only the numbers of each image are kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from ..classes import Classes
from ..data.images.masks import FOREGROUND, WAY_OUT
from ..data.mask_values import refuse_constant_masks
from ..data.packed import Packed
from ..data.packed_files import cut, take
from ..errors import UserError, print_line, shortlist, warn
from .aggregate import MethodResult, average_scores
from .chunks import ChunkJob, ChunkScores, choose_block, gather_scores, score_chunk
from .columns import METRICS
from .match import Entry, match_predictions
from .parts import Parts, list_share, read_parts, save_part
from .pixels.medical_scores import SurfaceOptions
from .pool import pool_map
from .score_pair import ImageScore, ScoreJob, ScoreOptions, score_job

Score = Callable[[ScoreJob], ImageScore]
Problems = dict[str, list[tuple[str, Any]]]  # problem -> the names of the masks, and the details
WORST = "have the score 0, and as distance the diagonal of the image"
EMPTY_RULES = {  # value of --empty_masks -> what happens if both are empty, and if one is
    "worst": ("are left out", WORST),
    "skip": ("are left out", "are left out"),
    "perfect": ("have perfect scores", WORST),
}
BOUNDS = {"Fw": 1e-5}  # of `verify`; if several foreground pixels are equally near, the library may use any of them
BOUND = 1e-6  # of the other scores
JOBS, LARGEST = 128, 256  # a list has at least so many jobs, if they have one pair; a job has at most so many pairs


def score_entries(
    entries: Sequence[Entry],
    how: ScoreOptions,
    missing: str = "error",
    workers: int | None = None,
    parts: Parts | None = None,
) -> list[MethodResult]:
    """Returns the scores of each entry, in order. `workers` is the number of processes; None or 0: one for each core.

    A mask without prediction is an error, or counts as a black map (`zero`), or is left out (`skip`). Raises UserError
    if names do not match, before the first file is opened, or if files cannot be scored. With a shard in `parts`,
    writes the part of the shard and returns an empty list. Without a shard, reads the scores from `parts`.
    """
    results = [match_predictions(entry, missing) for entry in entries]
    if parts and parts.shard:
        score_share(score_job, results, how, workers, parts, refuse_problems)
        return []
    with score_pairs(score_job, results, how, workers, parts) as scores:
        for result in results:
            add_scores_(result, scores, how)
    return results


@contextmanager
def score_pairs(
    score: Score,
    results: Sequence[MethodResult],
    how: ScoreOptions,
    workers: int | None,
    parts: Parts | None = None,
    blocks: Sequence[int] = (),
) -> Iterator[Iterator[ChunkScores]]:
    """Gives an iterator over the scores of all pairs of all `results`, in order; from `parts` if there are any.

    `blocks` has the length of a block for each result; default: `choose_block`.
    """
    if parts:
        yield read_parts(parts, results)
        return
    blocks = blocks or [choose_block(len(result.images)) for result in results]
    jobs = (job for pair in zip(results, blocks, strict=True) for job in make_jobs(*pair, how))
    with pool_map(workers) as run:
        yield show_progress(run(partial(score_chunk, score), jobs), sum(len(result.images) for result in results))


def make_jobs(result: MethodResult, block: int, how: ScoreOptions) -> Iterator[ChunkJob]:
    """Yields jobs with whole blocks of pairs."""
    count = len(result.masks)
    step = block * max(1, min(LARGEST, count // JOBS) // block)
    for start in range(0, count, step):
        maps, masks = (cut(files, start, start + step) for files in (result.predictions, result.masks))
        yield ChunkJob(maps, masks, how, block)  # type: ignore[arg-type]  # mypy takes the two for one type


def show_progress(scores: Iterator[ChunkScores], count: int) -> Iterator[ChunkScores]:
    with tqdm(total=count, unit="img", disable=None) as bar:
        for chunk in scores:
            bar.update(chunk.length)
            yield chunk


def score_share(
    score: Score,
    results: Sequence[MethodResult],
    how: ScoreOptions,
    workers: int | None,
    parts: Parts,
    refuse: Callable[[Problems, MethodResult, int], None],
) -> None:
    """Scores the share of a shard, and writes its part."""
    blocks = [choose_block(len(result.images)) for result in results]
    shares = []
    for result, block in zip(results, blocks, strict=True):
        places, _ = list_share(len(result.images), block, parts.shard)
        shares.append(take_pairs(result, places))
    with score_pairs(score, shares, how, workers, blocks=blocks) as scores:
        rows = [gather_scores(share, scores, refuse, keep_sums=True) for share in shares]
    path = save_part(parts, results, rows)
    pairs, total = sum(row.length for row in rows), sum(len(result.images) for result in results)
    print_line(f"in {path.parent}: {path.name}, the scores of {pairs:,} of {total:,} pairs")


def take_pairs(result: MethodResult, places: np.ndarray) -> MethodResult:
    """Returns the pairs at `places`, without scores and photographs."""
    names, maps, masks = (take(cast("Packed", x), places) for x in (result.images, result.predictions, result.masks))
    return MethodResult(result.dataset, result.method, names, maps, masks)


def add_scores_(result: MethodResult, scores: Iterator[ChunkScores], how: ScoreOptions) -> None:
    """Adds the next `scores` to `result` and warns about unusual files. UserError for masks that are all constant."""
    notes = fill_(result, scores)
    if how.mask_threshold is not None and not isinstance(how.mask_threshold, Classes):
        constant = (notes.pop(name, np.array([], int)) for name in ("empty", "full"))
        empty, full = ([result.masks[int(i)] for i in places] for places in constant)
        refuse_constant_masks(empty, full, len(result.masks), how.mask_threshold)
    for note, places in notes.items():
        warn_about(note, places, result, how.medical)
    warn_undefined(result)


def fill_(result: MethodResult, scores: Iterator[ChunkScores]) -> dict[str, np.ndarray]:
    """Puts the next `scores` into `result`, in order. Returns the places of images by note."""
    gathered = gather_scores(result, scores, refuse_problems)
    result.per_image = gathered.values
    result.curves = {name: rows[0] / gathered.length for name, rows in gathered.sums.items()}
    result.table = average_scores(result.per_image, result.curves)
    return gathered.notes


def warn_undefined(result: MethodResult) -> None:
    for key, values in result.per_image.items():
        if key in METRICS and METRICS[key].group == "medical":
            continue  # the notes on empty masks say it once for all columns
        if len(undefined := np.flatnonzero(np.isnan(values))):
            count = f"{len(undefined)} images ({name_images(result, undefined)})"
            warn(f"{label(result)}: {key} is not defined for {count}; its mean leaves them out")


def name_images(result: MethodResult, places: np.ndarray) -> str:
    """Returns the first names of the images at `places`, and the number of the others."""
    return shortlist([result.images[int(i)] for i in places[:5]], count=len(places))


def label(result: MethodResult) -> str:
    return f"{result.dataset} {result.method}".strip()


def refuse_problems(problems: Problems, result: MethodResult, checked: int) -> None:
    """Raises UserError if one of the problems is known here. `checked` pairs have been read."""
    folder, others = result.masks[0].parent, len(result.masks) - checked
    rest = f"; the other {others:,} pairs were not checked" if others else ""
    if files := problems.get("unreadable"):
        more = f" ({len(files) - 1} more files have an error)" if len(files) > 1 else ""
        raise UserError(f"{files[0][1]}{more}{rest}")
    if files := problems.get("coding"):
        names = shortlist([name for name, _ in files])
        raise UserError(
            f"{len(files)} of {checked} masks are not 0/255: {names} ({files[0][1]}; in {folder}); {WAY_OUT}{rest}"
        )
    if files := problems.get("size"):
        raise UserError(
            f"{len(files)} predictions have another size than their mask: {shortlist([d for _, d in files])}; "
            f"predict with --test_gt_path, which gives each map the size of its mask, or score with --resize{rest}"
        )


def warn_about(note: str, places: np.ndarray, result: MethodResult, medical: SurfaceOptions | None) -> None:
    count, names = len(places), name_images(result, places)
    if note == "binary" and count < len(result.images):
        return  # a few maps may have two grey levels by chance; a whole folder may not
    rule = EMPTY_RULES[medical.empty_masks if medical else "worst"]
    texts = {
        "both empty": f"{count} masks are empty, and so are their maps: {names}; these pairs {rule[0]}",
        "one empty": f"either the mask or the map is empty in {count} pairs: {names}; these pairs {rule[1]}",
        "binary": f"all {count} predictions are binary; soft maps have other scores in most columns",
        "faint": f"{count} predictions have two grey levels, none above {FOREGROUND}, as if they were written as 0/1: "
        f"{names}; they are stretched before scoring, but should be 0/255",
        "resized": f"{count} predictions were resized to the size of their mask, bilinear: {names}",
        "soft": f"{count} masks have grey values between 0 and 255; above {FOREGROUND} is foreground: {names}",
        "jpeg": f"{count} masks are JPEGs with grey edges; above {FOREGROUND} is foreground: {names}; use PNG",
    }
    warn(f"{label(result)}: {texts[note]}")


def verify(results: Sequence[MethodResult], how: ScoreOptions, count: int) -> str:
    """Scores `count` pairs again with py-sod-metrics. Returns the largest difference. UserError if it is large."""
    starts = np.cumsum([0, *(len(result.images) for result in results)])
    sample = np.random.default_rng(0).permutation(starts[-1])[:count]
    library = replace(how, library=True)
    largest, where = 0.0, ""
    for place in sample:
        number = int(np.searchsorted(starts, place, side="right")) - 1
        result, i = results[number], int(place - starts[number])
        theirs = score_job(ScoreJob(result.predictions[i], result.masks[i], library)).numbers
        for key, value in theirs.items():
            ours = result.per_image[key][i]
            gap = 0.0 if np.isnan(value) and np.isnan(ours) else abs(ours - value)
            if not gap <= BOUNDS.get(key, BOUND):
                raise UserError(
                    f"{key} of {result.masks[i].name} is {ours!r}, but py-sod-metrics computes {value!r}; "
                    "report this pair, and score with --backend pysodmetrics"
                )
            if gap > largest:
                largest, where = gap, f" ({key} of {result.masks[i].name})"
    return f"verified {len(sample)} pairs with py-sod-metrics: largest difference {largest:.1e}{where}"
