"""The test of a model that takes prompts: a list of masks in; scores, prompts and predicted masks out."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from ..atomic import create_folder, refuse_other_results, write_together
from ..data.pairs import Pair
from ..data.pictures import encode_png, write_bytes
from ..errors import SomeFailed, UserError, print_line, print_lines, shortlist, warn
from ..families.load import Checkpoint, open_model, resize_checkpoint
from ..families.settings import find_recipe
from ..limits import check_numbers
from ..recipe import Recipe
from ..runtime.device import explain_map_memory, pick_device
from ..runtime.parallel import default_workers, prefetch
from ..runtime.processes import Processes
from ..runtime.signals import Signals
from ..runtime.versions import versions
from ..scoring.csv_files import csv_text
from ..weights.weight_files import NO_FILES, WeightPaths
from .framing import Framing
from .lists import (
    Prompts,
    check_masks_of,
    find_problems,
    make_unique_names,
    read_prompts,
    read_test_list,
    write_prompts,
)
from .scores import (
    BOX,
    PAPER,
    Answer,
    PromptMode,
    PromptTestOptions,
    answer_all,
    compute_means,
    format_means,
    gather_answers,
    group_by_image,
)

PACKAGES = ("sam2unet", "torch", "numpy", "opencv-python-headless", "Pillow")


@dataclass(frozen=True)
class PromptTestFiles:
    """
    Attributes:
        lists: folder with label2image_test.json.
        target: folder for all that is written.
        prompts: files to take first prompts from, one for each number of points.
        save_masks: write what is predicted, a PNG for each mask and way.
        on_bad_image: `stop`, or `skip` and go on.
    """

    lists: Path
    target: Path
    prompts: Sequence[Path] = ()
    save_masks: bool = False
    on_bad_image: str = "stop"


@dataclass(frozen=True)
class PromptTestFlags:
    """What is asked for in words of the released flags; none where one was not given.

    Attributes:
        boxes_prompt: ask by boxes.
        point_num: numbers of points to ask with.
        iter_point: numbers of rounds that begin with one point.
    """

    boxes_prompt: bool | None = None
    point_num: Sequence[int] = ()
    iter_point: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_numbers(vars(self))

    def ways(self, counts: Sequence[int] = ()) -> tuple[PromptMode, ...]:
        """Points and rounds as given, and the box unless it is refused.

        Where only the box is refused that leaves one point, as released; where nothing is said, the paper's columns.

        Args:
            counts: numbers of points in files of prompts, taken in place of those that nobody named.
        """
        asked = [PromptMode(points=n) for n in self.point_num] + [PromptMode(rounds=n) for n in self.iter_point]
        if not asked and self.boxes_prompt is not True:
            paper = [way for way in PAPER if not way.box] if self.boxes_prompt is None else [PromptMode(points=1)]
            asked = [PromptMode(points=n) for n in counts] or paper
        return tuple(dict.fromkeys([BOX, *asked] if self.boxes_prompt is not False else asked))


def run(
    found: Checkpoint,
    files: PromptTestFiles,
    flags: PromptTestFlags = PromptTestFlags(),
    recipe: Mapping[str, object] = NO_FILES,
    size: int | None = None,
    adapters: bool | None = None,
    amp: str = "off",
    batch_size: int | None = None,
    device: str | None = None,
    weight_paths: WeightPaths = NO_FILES,
) -> None:
    """Prints a line of scores for each way of asking and writes them, those of each mask, and the prompts.

    Under torchrun each process takes its share of the images. UserError where it cannot work, SomeFailed where masks
    were left out, Stopped on a signal.

    Args:
        recipe: fields of the recipe that the test is to differ in from the training's, or the released one.
        size, adapters: of the network, where not as in the checkpoint: position tables are resized, adapters left out.
        batch_size: masks decoded at once; none: 16.
    """
    batch_size = 16 if batch_size is None else batch_size
    check_numbers({"batch_size": batch_size})
    if adapters and not found.shape.encoder_adapter:
        raise UserError(f"{found.path} has no adapters; leave --encoder_adapter out")
    processes = Processes.from_environment()
    target = pick_device(device, processes.local_rank)
    settings = find_recipe(found, **recipe)
    found = resize_checkpoint(found, size=size, encoder_adapter=adapters)
    framing = Framing(found.shape.size, rgb=settings.rgb, mask_threshold=settings.mask_rule)

    pairs = read_test_list(files.lists)
    with processes.silence_other_ranks():
        places = find_usable(pairs, framing, files.on_bad_image == "skip")
    given = read_given_prompts(files.prompts, pairs, places, framing.size)
    ways = flags.ways(sorted(given))
    asking = PromptTestOptions(
        settings.seed,
        settings.multimask,
        settings.mask_prompt,
        amp,
        batch_size,
        group_by_mode(ways, given),
        skip_bad=files.on_bad_image == "skip",
    )
    pictures = list_mask_paths(pairs, ways, files.target) if files.save_masks else {}
    refuse_other_results(files.target, ("results.json", "per_mask.csv"))
    model = open_model(found, weight_paths, target)
    images = group_by_image(pairs, len(pairs), places)
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(stack.enter_context(Signals()).stop_now())
        stack.enter_context(explain_map_memory(target, batch_size))
        stack.enter_context(create_folder(files.target))
        stack.callback(processes.close)
        processes.connect(target)
        side = f"{framing.size}x{framing.size}"
        print_line(f"{len(places)} masks on {len(images)} images at {side} on {target}")
        own = [place for group in images[processes.rank :: processes.world] for place in group]
        done = gather_answers(
            processes, test_masks(model, pairs, own, ways, framing, asking, pictures, processes.first)
        )
        if not done:
            raise UserError(f"none of {len(pairs)} masks of {files.lists} could be used")
        if processes.first:
            names = write_prompt_results(
                files.target, pairs, done, framing.size, not given, describe_prompt_test(found, settings, amp)
            )
            folders = sorted({way.folder for way in ways}) if files.save_masks else []
            print_lines(f"{format_means(compute_means(done))}\n")
            print_line(f"in {files.target}: {', '.join(names + folders)}")
            print_line(f"{len(done)} answers, {time.perf_counter() - start:.1f} s")
    answered = {one.place for one in done}
    if left := [pair.mask.name for place, pair in enumerate(pairs) if place not in answered]:
        raise SomeFailed(f"{len(left)} of {len(pairs)} masks were left out: {shortlist(left, limit=20)}")


def find_usable(pairs: Sequence[Pair], framing: Framing, skip_bad: bool) -> list[int]:
    """Places of the masks that can be asked for; UserError if not all can and none is to be skipped."""
    if not skip_bad:
        check_masks_of(pairs, framing, strict=True)
        return list(range(len(pairs)))
    found = find_problems(pairs, framing, strict=True)
    for words in filter(None, found):
        warn(f"left out: {words}")
    return [place for place, words in enumerate(found) if not words]


def read_given_prompts(
    paths: Sequence[Path], pairs: Sequence[Pair], places: Sequence[int], side: int
) -> dict[int, dict[int, Prompts]]:
    """From files of prompts for images of `side`: by number of points and place in the list.

    UserError for what `read_prompts` refuses, prompts for images of another size, and two files of one number.
    """
    names = make_unique_names([pair.mask for pair in pairs])
    given: dict[int, dict[int, Prompts]] = {}
    for path in paths:
        named = re.match(r"(\d+)_prompt", path.name)
        prompts = read_prompts(path, [names[place] for place in places])
        most = max((one.boxes.max().item() for one in prompts), default=0)
        if (named and int(named[1]) != side) or most > side:
            what = f"{named[1]}x{named[1]}" if named else f"at least {most:.0f} pixels"
            raise UserError(f"{path} is for images of {what}, the model sees {side}x{side}; --image_size sets it")
        count = prompts[0].points.labels.shape[1] if prompts else 1
        if count in given:
            raise UserError(f"{path} is the second --prompt_path with {count} points for each mask; give one")
        given[count] = dict(zip(places, prompts, strict=True))
    return given


def group_by_mode(
    ways: Sequence[PromptMode], given: Mapping[int, Mapping[int, Prompts]]
) -> dict[PromptMode, Mapping[int, Prompts]]:
    """The prompts that each way begins with, none for any if none are given. Boxes are in every file."""
    if not given:
        return {}
    if absent := [way.title for way in ways if not way.box and way.points not in given]:
        counts = shortlist(sorted(given))
        raise UserError(f"no --prompt_path for {shortlist(absent)}: points for each mask in those given: {counts}")
    first = next(iter(given.values()))
    return {way: given.get(way.points, first) for way in ways}


def list_mask_paths(
    pairs: Sequence[Pair], ways: Sequence[PromptMode], target: Path
) -> dict[tuple[PromptMode, int], Path]:
    """Where each predicted mask goes: by its mask's file name, or the part of its path that tells equal names apart.

    UserError where two would go to one file, or one onto an input.
    """
    counts = Counter(pair.mask.name for pair in pairs)
    whole = {pair.mask: Path(os.path.abspath(pair.mask)) for pair in pairs if counts[pair.mask.name] > 1}
    shared = os.path.commonpath([path.parent for path in whole.values()]) if whole else None
    names = [whole[m].relative_to(shared) if m in whole else Path(m.name) for m in (pair.mask for pair in pairs)]
    names = [name.with_suffix(".png") for name in names]
    if twice := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"--save_pred would write {len(twice)} files more than once: {shortlist(twice)}; rename the masks"
        )
    paths = {(way, place): target / way.folder / name for way in ways for place, name in enumerate(names)}
    inputs = {path.resolve() for pair in pairs for path in pair}
    if lost := next((path for path in paths.values() if path.resolve() in inputs), None):
        raise UserError(f"--save_pred would overwrite {lost}, which is in the list; give another --save_path")
    return paths


def test_masks(
    model: nn.Module,
    pairs: Sequence[Pair],
    places: Sequence[int],
    ways: Sequence[PromptMode],
    framing: Framing,
    asking: PromptTestOptions,
    pictures: Mapping[tuple[PromptMode, int], Path] = NO_FILES,
    show: bool = True,
) -> Iterator[Answer]:
    """All answers for `places`, without logits when their masks are written, each prompt once: in one way of asking."""
    keepers = {way.points: way for way in reversed(ways)}

    def kept(one: Answer) -> Answer:
        if path := pictures.get((one.way, one.place)):
            write_bytes(path, encode_png((one.logits[0] > 0).cpu().numpy().astype(np.uint8) * 255))
        return one._replace(logits=None, prompts=one.prompts if keepers[one.way.points] == one.way else None)

    threads = default_workers()
    bar = tqdm(total=len(places) * len(ways), unit="mask", disable=None if show else True)
    with ThreadPoolExecutor(threads) as writers, bar:
        for one in prefetch(writers, kept, answer_all(model, pairs, ways, framing, asking, places), 2 * threads):
            bar.update()
            yield one


def describe_prompt_test(found: Checkpoint, settings: Recipe, amp: str) -> dict[str, object]:
    names = ("seed", "multimask", "rgb", "mask_prompt", "mask_threshold", *["foreground"] * bool(settings.foreground))
    chosen = found.shape.to_facts() | {name: getattr(settings, name) for name in names} | {"amp": amp}
    return {"checkpoint": str(found.path), "model": found.family.title, "settings": chosen}


def write_prompt_results(
    folder: Path,
    pairs: Sequence[Pair],
    done: Sequence[Answer],
    side: int,
    prompts: bool,
    facts: Mapping[str, object],
) -> list[str]:
    """`results.json`, `per_mask.csv`, and where `prompts` are new a file for each number of points; their names."""
    means = {way.title: row for way, row in compute_means(done).items()}
    rows = [["image", "mask", "prompt", "dice", "iou", "quality", "loss"]]
    for one in done:
        pair = pairs[one.place]
        scores = (repr(value) for value in (one.dice, one.iou, one.quality, one.loss))
        rows.append([pair.image.as_posix(), pair.mask.as_posix(), one.way.title, *scores])
    everything = {"means": means, **facts, "versions": versions(PACKAGES)}
    texts = {"results.json": json.dumps(everything, indent=2) + "\n", "per_mask.csv": csv_text(rows)}
    with write_together(folder) as part:
        for name, text in texts.items():
            write_bytes(part / name, text.encode())
        for name, found in group_prompts_by_file(pairs, done, side).items() if prompts else ():
            write_prompts(part / name, found)
        return sorted(path.name for path in part.iterdir())


def group_prompts_by_file(pairs: Sequence[Pair], done: Sequence[Answer], side: int) -> dict[str, dict[str, Prompts]]:
    """The released name for the smallest number of points; others have theirs in it."""
    names = make_unique_names([pair.mask for pair in pairs])
    counts = sorted({one.way.points for one in done})
    files = {n: f"{side}_prompt.json" if n == counts[0] else f"{side}_prompt_{n}pts.json" for n in counts}
    found: dict[str, dict[str, Prompts]] = {file: {} for file in files.values()}
    for one in done:
        if one.prompts is not None:
            found[files[one.way.points]][names[one.place]] = one.prompts
    return found
