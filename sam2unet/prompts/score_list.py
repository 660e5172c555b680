"""The test of SAM-Med2D: reads a list of masks, and writes scores, prompts and predicted masks."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..atomic import create_folder, refuse_other_results
from ..classes import Classes
from ..data.pairs import Pair
from ..data.pictures import encode_png, write_bytes
from ..errors import SomeFailed, UserError, print_line, print_lines, shortlist, warn
from ..families.load import Checkpoint, open_model, resize_checkpoint
from ..families.settings import find_recipe
from ..limits import check_numbers
from ..models.sam_med2d import SAMMed2D
from ..recipe import Recipe
from ..runtime.device import explain_map_memory, pick_device
from ..runtime.parallel import default_workers, prefetch
from ..runtime.processes import Processes
from ..runtime.signals import Signals
from ..weights.weight_files import NO_FILES, WeightPaths
from .framing import Framing
from .groups import group_by_image
from .lists import BoxAndPoints, find_problems, make_unique_names, read_prompts, read_test_list, refuse_bad_masks
from .modes import PromptMode, PromptTestFlags
from .results import group_prompts_by_file, list_mask_paths, write_prompt_results
from .scores import Answer, PromptTestOptions, answer_all, compute_means, format_means, gather_answers


@dataclass(frozen=True)
class PromptTestFiles:
    """The files of a test."""

    lists: Path  # the folder with label2image_test.json
    target: Path  # the folder for all results
    # files with the first prompts, one for each number of points. Empty: draw the prompts.
    prompts: Sequence[Path] = ()
    save_masks: bool = False  # write the predicted masks as PNG files
    on_bad_image: str = "stop"  # `stop`, or `skip` to leave out masks that cannot be used


@dataclass(frozen=True)
class PromptTest:
    """A test that can start."""

    pairs: Sequence[Pair]  # the list of masks with their images
    indices: Sequence[int]  # the positions of the masks that can be used
    modes: Sequence[PromptMode]
    framing: Framing
    options: PromptTestOptions  # the options, with the prompts of the files
    # the files of the predicted masks, by mode and position. Empty: they are not written.
    mask_paths: Mapping[tuple[PromptMode, int], Path]
    draws_prompts: bool  # there are no files of prompts, so the test draws prompts and writes them


def run(
    checkpoint: Checkpoint,
    files: PromptTestFiles,
    flags: PromptTestFlags,
    recipe: Mapping[str, object] = NO_FILES,
    size: int | None = None,
    adapters: bool | None = None,
    amp: str = "off",
    batch_size: int | None = None,
    device: str | None = None,
    weight_paths: WeightPaths = NO_FILES,
) -> None:
    """Tests a model, prints a table with one line for each prompt mode, and writes the results.

    Under torchrun, each process takes a part of the images. Raises UserError if the test cannot run, SomeFailed if
    masks were left out, and Stopped if a signal stopped the test.

    Args:
        recipe: values that replace those of the training recipe.
        size: side of the square. None: the side of the checkpoint. Position tables are resized.
        adapters: False leaves out the adapters of the checkpoint.
        batch_size: number of masks that are decoded together. None: 16.
    """
    batch_size = 16 if batch_size is None else batch_size
    check_numbers({"batch_size": batch_size})
    if adapters and not checkpoint.shape.encoder_adapter:
        raise UserError(f"{checkpoint.path} has no adapters; leave --encoder_adapter out")
    processes = Processes.from_environment()
    target = pick_device(device, processes.local_rank)
    settings = find_recipe(checkpoint, size=size, encoder_adapter=adapters, **recipe)
    settings.refuse_others(("classes",), checkpoint.family.title)
    checkpoint = resize_checkpoint(checkpoint, size=size, encoder_adapter=adapters)
    side, rule = checkpoint.shape.size, settings.mask_rule
    assert side is not None and not isinstance(rule, Classes)
    framing = Framing(side, rgb=settings.rgb, mask_threshold=rule)
    decoding = (settings.seed, settings.multimask, settings.mask_prompt)
    options = PromptTestOptions(*decoding, amp, batch_size, skip_bad=files.on_bad_image == "skip")
    with processes.silence_other_ranks():
        test = prepare_test(files, flags, framing, options)
    model = open_model(checkpoint, weight_paths, target, settings)
    start = time.perf_counter()
    with hold_run(processes, target, files.target, batch_size):
        images = {test.pairs[index].image for index in test.indices}
        print_line(f"{len(test.indices)} masks on {len(images)} images at {side}x{side} on {target}")
        answers = answer_list(model, test, processes)
        if not answers:
            raise UserError(f"none of {len(test.pairs)} masks of {files.lists} could be used")
        if processes.first:
            write_prompt_test(files, test, answers, describe_prompt_test(checkpoint, settings, amp))
            print_line(f"{len(answers)} answers, {time.perf_counter() - start:.1f} s")
    refuse_missing_answers(test.pairs, answers)


@contextmanager
def hold_run(processes: Processes, device: torch.device, folder: Path, batch_size: int) -> Iterator[None]:
    """Connects the processes and makes the folder. A signal stops the test inside at once."""
    with ExitStack() as stack:
        stack.enter_context(stack.enter_context(Signals()).stop_now())
        stack.enter_context(explain_map_memory(device, batch_size))
        stack.enter_context(create_folder(folder))
        stack.callback(processes.close)
        processes.connect(device)
        yield


def prepare_test(
    files: PromptTestFiles, flags: PromptTestFlags, framing: Framing, options: PromptTestOptions
) -> PromptTest:
    """Reads the list, checks all masks, and reads the files of prompts. Raises UserError if the test cannot start."""
    pairs = read_test_list(files.lists)
    indices = find_usable(pairs, framing, options.skip_bad)
    prompts = read_prompt_files(files.prompts, pairs, indices, framing.size)
    modes = flags.choose_modes(sorted(prompts))
    options = replace(options, prompts=assign_prompts(modes, prompts))
    mask_paths = list_mask_paths(pairs, modes, files.target) if files.save_masks else {}
    refuse_other_results(files.target, ("results.json", "per_mask.csv"))
    return PromptTest(pairs, indices, modes, framing, options, mask_paths, draws_prompts=not prompts)


def find_usable(pairs: Sequence[Pair], framing: Framing, skip_bad: bool) -> list[int]:
    """Returns the positions of usable masks. Warns about the others, or raises UserError without `skip_bad`."""
    if not skip_bad:
        refuse_bad_masks(pairs, framing, strict=True)
        return list(range(len(pairs)))
    problems = find_problems(pairs, framing, strict=True)
    for problem in filter(None, problems):
        warn(f"left out: {problem}")
    return [index for index, problem in enumerate(problems) if not problem]


def read_prompt_files(
    paths: Sequence[Path], pairs: Sequence[Pair], indices: Sequence[int], side: int
) -> dict[int, dict[int, BoxAndPoints]]:
    """Reads files of prompts. Returns the prompts by their number of points, then by the position of their mask."""
    names = make_unique_names([pair.mask for pair in pairs])
    by_count: dict[int, dict[int, BoxAndPoints]] = {}
    for path in paths:
        number = re.match(r"(\d+)_prompt", path.name)  # the released names start with the side
        prompts = read_prompts(path, [names[index] for index in indices])
        largest = max((entry.boxes.max().item() for entry in prompts), default=0)
        if (number and int(number[1]) != side) or largest > side:
            sides = f"{number[1]}x{number[1]}" if number else f"at least {largest:.0f} pixels"
            raise UserError(f"{path} is for images of {sides}, but the model takes {side}x{side}; give --image_size")
        count = prompts[0].points.labels.shape[1] if prompts else 1
        if count in by_count:
            raise UserError(f"{path} is the second --prompt_path with {count} points for each mask; give one")
        by_count[count] = dict(zip(indices, prompts, strict=True))
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


def answer_list(model: nn.Module, test: PromptTest, processes: Processes) -> list[Answer]:
    """Returns the answers of all processes, without logits, and writes the predicted masks that have a path.

    Modes with the same number of points have the same prompts. Only the answers of the first such mode keep them.
    """
    assert isinstance(model, SAMMed2D)
    groups = group_by_image(test.pairs, test.indices)
    indices = [index for group in groups[processes.rank :: processes.world] for index in group]
    owners = {mode.points: mode for mode in reversed(test.modes)}

    def write_mask(answer: Answer) -> Answer:
        if path := test.mask_paths.get((answer.mode, answer.index)):
            assert answer.logits is not None
            write_bytes(path, encode_png((answer.logits[0] > 0).cpu().numpy().astype(np.uint8) * 255))
        is_owner = owners[answer.mode.points] == answer.mode
        return answer._replace(logits=None, prompts=answer.prompts if is_owner else None)

    def answer_part() -> Iterator[Answer]:
        answers = answer_all(model, test.pairs, test.modes, test.framing, test.options, indices)
        total, threads = len(indices) * len(test.modes), default_workers()
        progress = tqdm(total=total, unit="mask", disable=None if processes.first else True)
        with ThreadPoolExecutor(threads) as writers, progress:
            for answer in prefetch(writers, write_mask, answers, 2 * threads):
                progress.update()
                yield answer

    return gather_answers(processes, answer_part())


def write_prompt_test(
    files: PromptTestFiles, test: PromptTest, answers: Sequence[Answer], facts: Mapping[str, object]
) -> None:
    """Writes the results, and prints the table and the names of the files."""
    prompts = group_prompts_by_file(test.pairs, answers, test.framing.size) if test.draws_prompts else {}
    names = write_prompt_results(files.target, test.pairs, answers, prompts, facts)
    names += sorted({mode.folder for mode in test.modes}) if files.save_masks else []
    print_lines(f"{format_means(compute_means(answers))}\n")
    print_line(f"in {files.target}: {', '.join(names)}")


def describe_prompt_test(checkpoint: Checkpoint, settings: Recipe, amp: str) -> dict[str, object]:
    """Returns the settings of a test for `results.json`."""
    names = ("seed", "multimask", "rgb", "mask_prompt", "mask_threshold", *["foreground"] * bool(settings.foreground))
    values = checkpoint.shape.to_facts() | {name: getattr(settings, name) for name in names} | {"amp": amp}
    return {"checkpoint": str(checkpoint.path), "model": checkpoint.family.title, "settings": values}


def refuse_missing_answers(pairs: Sequence[Pair], answers: Sequence[Answer]) -> None:
    answered = {answer.index for answer in answers}
    if missing := [pair.mask.name for index, pair in enumerate(pairs) if index not in answered]:
        raise SomeFailed(f"{len(missing)} of {len(pairs)} masks were left out: {shortlist(missing, limit=20)}")
