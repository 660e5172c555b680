"""Scores of consecutive pairs as arrays. The order in which they are added does not depend on processes or shards.

The pairs of a list form blocks of the same length, which depends only on the length of the list. The pairs of a block
are added in order, and then the blocks are added in order. A shard has whole blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from ..data.volumes.slices import Source
from .aggregate import MethodResult
from .pool import is_stopped
from .score_pair import ImageScore, ScoreJob, ScoreOptions

BLOCKS = 4096  # a list has at most so many blocks, as long as no block has more than LONGEST pairs
LONGEST = 256
CHECKED = 256  # so many pairs are checked before the first problem ends the run


class ChunkJob(NamedTuple):
    predictions: Sequence[Source | None]
    masks: Sequence[Source]
    how: ScoreOptions
    block: int  # the length of a block


class ChunkScores(NamedTuple):
    """The scores of consecutive pairs. Positions are from 0 for the first of them.

    If there is a problem, `values` and `sums` are not complete.
    """

    length: int
    values: dict[str, ndarray]  # (length, ...) by name: the numbers of each pair
    sums: dict[str, ndarray]  # (blocks, ...) by name: curves or counts, added over the pairs of each block
    notes: dict[str, ndarray]  # note -> int64, the positions of the pairs that have it
    problems: list[tuple[int, str, Any]]  # position, and `problem` and `detail` of an `ImageScore`


def choose_block(count: int) -> int:
    """Returns the length of a block in a list of `count` pairs, a power of two.

    It is 1 for up to `BLOCKS` pairs. So the curves of such a list are added one by one.
    """
    block = 1
    while block < LONGEST and count > BLOCKS * block:
        block *= 2
    return block


def score_chunk(score: Callable[[ScoreJob], ImageScore], job: ChunkJob) -> ChunkScores:
    """Scores the pairs of a job. Stops early if the parent needs no more scores."""
    jobs = (ScoreJob(*pair, job.how) for pair in zip(job.predictions, job.masks, strict=True))
    return join_scores((score(pair) for pair in jobs if not is_stopped()), job.block)


def join_scores(scores: Iterable[ImageScore], block: int) -> ChunkScores:
    """Joins the scores of consecutive pairs, of which the first begins a block."""
    numbers: list[dict[str, Any]] = []
    sums: list[dict[str, ndarray]] = []
    notes: dict[str, list[int]] = {}
    problems: list[tuple[int, str, Any]] = []
    count = 0
    for index, score in enumerate(scores):
        count = index + 1
        for note in score.notes:
            notes.setdefault(note, []).append(index)
        if score.problem:
            problems.append((index, score.problem, score.detail))
        if problems:
            continue
        numbers.append(score.numbers)
        if index % block == 0:
            sums.append({})
        for name, curve in score.curves.items():
            sums[-1][name] = sums[-1].get(name, 0) + curve
    values, totals = (
        {key: np.array([row[key] for row in rows]) for key in (rows or [{}])[0]} for rows in (numbers, sums)
    )
    return ChunkScores(count, values, totals, {note: np.array(places) for note, places in notes.items()}, problems)


def gather_scores(
    result: MethodResult,
    chunks: Iterator[ChunkScores],
    refuse: Callable[[dict[str, list[tuple[str, Any]]], MethodResult, int], None],
    keep_sums: bool = False,
) -> ChunkScores:
    """Joins the next chunks, as many as `result` has pairs. Its `sums` have one row, or with `keep_sums` all blocks.

    If there are problems, calls `refuse`, which raises UserError: after all pairs of a short list, or after the first
    chunk that has one. It gets the masks and the details of each problem, and the number of checked pairs.
    """
    count, done = len(result.images), 0
    values: dict[str, ndarray] = {}
    sums: dict[str, list[ndarray]] = {}
    notes: dict[str, list[ndarray]] = {}
    problems: dict[str, list[tuple[str, Any]]] = {}
    while done < count:
        chunk = next(chunks)
        for index, problem, detail in chunk.problems:
            problems.setdefault(problem, []).append((result.masks[done + index].name, detail))
        for note, places in chunk.notes.items():
            notes.setdefault(note, []).append(done + places)
        if not problems:
            add_values_(values, chunk, done, count)
            for name, rows in chunk.sums.items():
                blocks = sums.setdefault(name, [])
                blocks += [rows] if keep_sums else []
                for row in () if keep_sums else rows:
                    blocks[:] = [blocks[0] + row[None] if blocks else row[None]]
        done += chunk.length
        if problems and (done >= CHECKED or done == count):
            refuse(problems, result, done)
    totals, places_by_note = ({name: np.concatenate(parts) for name, parts in lists.items()} for lists in (sums, notes))
    return ChunkScores(done, values, totals, places_by_note, [])


def add_values_(values: dict[str, ndarray], chunk: ChunkScores, start: int, count: int) -> None:
    """Puts the values of a chunk into arrays for `count` pairs, from position `start` on."""
    for key, column in chunk.values.items():
        if chunk.length == count:
            values[key] = column
            continue
        if key not in values:
            values[key] = np.empty((count, *column.shape[1:]), column.dtype)
        values[key][start : start + chunk.length] = column
