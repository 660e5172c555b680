"""Prepares a test of prompts: reads the list, checks the masks, and reads the files of prompts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...atomic import refuse_other_results, sha256
from ...data.checks.check import Column, choose_checked
from ...data.index.select import IndexQuery, open_index_test
from ...data.index.table import Pairs
from ...data.order import choose_evenly
from ...data.packed import Mapped
from ...data.pairs import Pair
from ...errors import UserError, shortlist, warn
from ...recipe import Recipe
from ...runtime.processes import Processes
from ...runtime.shards import Shard
from ..framing import Framing
from ..groups import number_images
from ..lists import (
    TEST_LIST,
    BoxAndPoints,
    find_problems,
    make_unique_names,
    read_prompts,
    read_test_list,
    refuse_bad_masks,
)
from ..modes import PromptMode, PromptTestFlags
from ..scores import PromptTestOptions
from .parts import name_answer_part, refuse_other_file
from .results import list_mask_paths, name_prompt_files


@dataclass(frozen=True)
class PromptTestFiles:
    """The files of a test."""

    lists: Path  # the folder with label2image_test.json, or an index
    target: Path  # the folder for all results
    # files with the first prompts, one for each number of points. Empty: draw the prompts.
    prompts: Sequence[Path] = ()
    save_masks: bool = False  # write the predicted masks as PNG files
    on_bad_image: str = "stop"  # `stop`, or `skip` to leave out masks that cannot be used
    shard: Shard = Shard()  # the share of the images that this run answers
    index: IndexQuery | None = None  # a part of the index `lists`


@dataclass(frozen=True)
class PromptTest:
    """A test that can start."""

    pairs: Sequence[Pair]  # the list of masks with their images
    facts: Mapping[str, object]  # what identifies the list
    share: Shard  # the share of the images that this process answers
    numbers: np.ndarray  # int64 (N,), the number of the image of each pair
    indices: np.ndarray  # int64, the positions of the masks of this run that can be used
    modes: Sequence[PromptMode]
    framing: Framing
    options: PromptTestOptions  # the options, with the prompts of the files
    # the files of the predicted masks, by mode and position. Empty: they are not written.
    mask_paths: Mapping[tuple[PromptMode, int], Path]
    draws_prompts: bool  # there are no files of prompts, so the test draws prompts and writes them

    def describe(self, shard: Shard) -> str:
        images = len(np.unique(self.numbers[self.indices]))
        return f"{name_share(shard)}{len(self.indices)} masks on {images} images"


def name_share(shard: Shard) -> str:
    """Returns the beginning of the lines of a share."""
    return f"share {shard}: " if shard.count > 1 else ""


def prepare_test(
    files: PromptTestFiles,
    flags: PromptTestFlags,
    framing: Framing,
    options: PromptTestOptions,
    processes: Processes,
    seed: int = Recipe.seed,
) -> PromptTest:
    """Reads the list, checks the masks of the run, and reads the files of prompts.

    `seed` is that of the training, which decides what `--split` of an index holds out. Raises UserError if the test
    cannot start.
    """
    if files.index:
        test = open_index_test(files.index, seed, framing.mask_threshold)
        pairs, facts = test.items.pairs, test.facts
        numbers = pairs.numbers
        indices = np.flatnonzero(is_in_share(numbers, files.shard))  # the masks were checked when the index was made
    else:
        pairs, facts = Pairs.pack(read_test_list(files.lists)), {"list": sha256(files.lists / TEST_LIST)}
        numbers = number_images(pairs, range(len(pairs)))
        indices = np.flatnonzero(is_in_share(numbers, files.shard))
        indices = find_usable(pairs, indices, framing, options.skip_bad, processes)
    if not len(indices) and files.shard.count == 1:
        raise UserError(f"none of {len(pairs)} masks of {files.lists} could be used")
    prompts = read_prompt_files(files.prompts, pairs, indices, framing.size)
    modes = flags.choose_modes(sorted(prompts))
    options = replace(options, prompts=assign_prompts(modes, prompts))
    mask_paths = list_mask_paths(pairs, modes, files.target) if files.save_masks else {}
    prompt_names = () if prompts else name_prompt_files(modes, framing.size).values()
    refuse_other_results(files.target, ("results.json", "per_mask.csv", *prompt_names))
    share = Shard(files.shard.number + files.shard.count * processes.rank, files.shard.count * processes.world)
    refuse_other_file(files.target / name_answer_part(share))
    return PromptTest(
        pairs, facts, share, numbers, indices, modes, framing, options, mask_paths, draws_prompts=not prompts
    )


def is_in_share(numbers: np.ndarray, share: Shard) -> np.ndarray:
    """Returns whether each number belongs to a share, bool (N,), as `Shard.takes` does."""
    return numbers % share.count == share.number - 1


def find_usable(
    pairs: Sequence[Pair], indices: np.ndarray, framing: Framing, skip_bad: bool, processes: Processes
) -> np.ndarray:
    """Returns those of `indices` whose masks are usable. Warns about others, or raises UserError without `skip_bad`.

    The processes share the check. Of many masks it checks a sample; the others are checked when they are read.
    """
    chosen = Mapped[int, Pair](lambda index: pairs[int(index)], indices)
    sample = choose_checked(chosen, "sam2unet make-prompts")
    if not skip_bad:
        refuse_bad_masks(sample, framing, True, processes)
        return indices
    problems = find_problems(sample, framing, True, processes)
    for problem in filter(None, problems):
        warn(f"left out: {problem}")
    is_bad = np.array([problem is not None for problem in problems], bool)
    return np.delete(indices, choose_evenly(len(indices), len(sample))[is_bad])


def read_prompt_files(
    paths: Sequence[Path], pairs: Sequence[Pair], indices: np.ndarray, side: int
) -> dict[int, dict[int, BoxAndPoints]]:
    """Reads files of prompts. Returns the prompts by their number of points, then by the position of their mask."""
    names = make_unique_names(Column(pairs, "mask")) if paths else ()
    by_count: dict[int, dict[int, BoxAndPoints]] = {}
    for path in paths:
        number = re.match(r"(\d+)_prompt", path.name)  # the released names start with the side
        prompts = read_prompts(path, [names[index] for index in indices.tolist()])
        largest = max((entry.boxes.max().item() for entry in prompts), default=0)
        if (number and int(number[1]) != side) or largest > side:
            sides = f"{number[1]}x{number[1]}" if number else f"at least {largest:.0f} pixels"
            raise UserError(f"{path} is for images of {sides}, but the model takes {side}x{side}; give --image_size")
        count = prompts[0].points.labels.shape[1] if prompts else 1
        if count in by_count:
            raise UserError(f"{path} is the second --prompt_path with {count} points for each mask; give one")
        by_count[count] = dict(zip(indices.tolist(), prompts, strict=True))
    return by_count


def assign_prompts(
    modes: Sequence[PromptMode], prompts: Mapping[int, Mapping[int, BoxAndPoints]]
) -> dict[PromptMode, Mapping[int, BoxAndPoints]]:
    """Returns the first prompts of each mode. Raises UserError if no file has the number of points of a mode."""
    if not prompts:
        return {}
    if missing := [mode.title for mode in modes if not mode.box and mode.points not in prompts]:
        counts = shortlist(sorted(prompts))
        raise UserError(f"no --prompt_path for {shortlist(missing)}; the files have these numbers of points: {counts}")
    first = next(iter(prompts.values()))
    return {mode: prompts.get(mode.points, first) for mode in modes}
