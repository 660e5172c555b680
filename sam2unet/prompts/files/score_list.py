"""The test of SAM-Med2D: reads a list of masks, and writes scores, prompts and predicted masks."""

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ...atomic import create_folder, sha256
from ...classes import Classes
from ...data.images.pictures import encode_png, write_bytes
from ...data.packed import Mapped
from ...errors import SomeFailed, UserError, print_line, print_lines, shortlist
from ...families.load import Checkpoint, open_model, resize_checkpoint
from ...families.settings import find_recipe
from ...limits import check_numbers
from ...models.sam_med2d import SAMMed2D
from ...recipe import Recipe
from ...runtime.device import explain_map_memory, pick_device
from ...runtime.parallel import default_workers, prefetch
from ...runtime.processes import Processes
from ...runtime.signals import Signals
from ...weights.weight_files import NO_FILES, WeightPaths
from ..framing import Framing
from ..modes import PromptTestFlags
from ..scores import Answer, PromptTestOptions, answer_all, format_means
from .parts import (
    AnswerTable,
    find_answer_parts,
    lock_answer_parts,
    name_answer_part,
    read_part_facts,
    write_answer_part,
)
from .prepare import PromptTest, PromptTestFiles, is_in_share, name_share, prepare_test
from .results import write_prompt_results


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
    training_seed = find_recipe(checkpoint, size=size, encoder_adapter=adapters).seed
    settings.refuse_others(("classes",), checkpoint.family.title)
    checkpoint = resize_checkpoint(checkpoint, size=size, encoder_adapter=adapters)
    side, rule = checkpoint.shape.size, settings.mask_rule
    assert side is not None and not isinstance(rule, Classes)
    framing = Framing(side, rgb=settings.rgb, mask_threshold=rule)
    decoding = (settings.seed, settings.multimask, settings.mask_prompt)
    options = PromptTestOptions(*decoding, amp, batch_size, skip_bad=files.on_bad_image == "skip")
    with hold_run(processes, target, batch_size):
        with processes.end_together():
            processes.connect(target)
            with processes.silence_other_ranks():
                test = prepare_test(files, flags, framing, options, processes, training_seed)
            model = open_model(checkpoint, weight_paths, target, settings)
        facts = describe_prompt_test(checkpoint, settings, amp)
        print_line(f"{test.describe(files.shard)} at {side}x{side} on {target}")
        with create_folder(files.target, is_shared=test.share.count > 1):
            missing, count = answer_and_join(model, test, files, checkpoint, facts, processes)
    if len(missing):
        names = shortlist(Mapped(lambda index: test.pairs[int(index)].mask.name, missing), limit=20)
        raise SomeFailed(f"{len(missing)} of {count} masks were left out: {names}")


@contextmanager
def hold_run(processes: Processes, device: torch.device, batch_size: int) -> Iterator[None]:
    """Ends the connection of the processes at the end. A signal stops the test inside at once."""
    with ExitStack() as stack:
        stack.enter_context(stack.enter_context(Signals()).stop_now())
        stack.enter_context(explain_map_memory(device, batch_size))
        stack.callback(processes.close)
        yield


def answer_and_join(
    model: nn.Module,
    test: PromptTest,
    files: PromptTestFiles,
    checkpoint: Checkpoint,
    facts: Mapping[str, object],
    processes: Processes,
) -> tuple[np.ndarray, int]:
    """Writes the parts of this run, and the results if all parts are there.

    Returns the positions of the masks without answer, and the number of masks: of the whole list if the results are
    written, otherwise of the share.
    """
    start, part_facts = time.perf_counter(), describe_answer_part(checkpoint, files, test, facts)
    is_missing = is_in_share(test.numbers, files.shard)
    count = int(is_missing.sum())
    is_missing[answer_share(model, test, files.target, part_facts, processes)] = False
    missing = np.flatnonzero(is_missing)
    if processes.first and (table := join_answer_parts(files, test, part_facts, facts)):
        missing, count = np.setdiff1d(np.arange(len(test.pairs)), table.indices), len(test.pairs)
    answers = (count - len(missing)) * len(test.modes)
    print_line(f"{name_share(files.shard)}{answers} answers, {time.perf_counter() - start:.1f} s")
    return missing, count


def answer_share(
    model: nn.Module, test: PromptTest, folder: Path, facts: Mapping[str, object], processes: Processes
) -> np.ndarray:
    """Writes the part of this process, if an earlier run has not written it.

    Returns the positions of the masks that the processes of this run have answered. A UserError of one process is
    raised in all of them.
    """
    path, error, indices = folder / name_answer_part(test.share), None, np.empty(0, np.int64)
    try:
        if read_part_facts(path) == facts:
            print_line(f"{path} has the answers of an earlier run; remove it to answer again")
        else:
            answers = answer_list(model, test, show=processes.first)
            write_answer_part(path, facts, test.modes, test.draws_prompts, answers)
        indices = AnswerTable([path], test.modes, test.draws_prompts).indices
    except UserError as e:
        error = str(e)
    parts = processes.gather((error, indices))
    if errors := [error for error, _ in parts if error]:
        path.unlink(missing_ok=True)
        raise UserError(errors[0])
    return np.concatenate([indices for _, indices in parts])


def answer_list(model: nn.Module, test: PromptTest, show: bool) -> Iterator[Answer]:
    """Yields the answers of this process, without logits, and writes the predicted masks that have a path.

    Modes with the same number of points have the same prompts. Only the answers of the first such mode keep them.
    """
    assert isinstance(model, SAMMed2D)
    indices = test.indices[is_in_share(test.numbers, test.share)[test.indices]]
    owners = {mode.points: mode for mode in reversed(test.modes)}

    def write_mask(answer: Answer) -> Answer:
        if path := test.mask_paths.get((answer.mode, answer.index)):
            assert answer.logits is not None
            write_bytes(path, encode_png((answer.logits[0] > 0).cpu().numpy().astype(np.uint8) * 255))
        is_owner = owners[answer.mode.points] == answer.mode
        return answer._replace(logits=None, prompts=answer.prompts if is_owner else None)

    answers = answer_all(model, test.pairs, test.modes, test.framing, test.options, indices)
    total, threads = len(indices) * len(test.modes), default_workers()
    progress = tqdm(total=total, unit="mask", disable=None if show else True)
    with ThreadPoolExecutor(threads) as writers, progress:
        for answer in prefetch(writers, write_mask, answers, 2 * threads):
            progress.update()
            yield answer


def join_answer_parts(
    files: PromptTestFiles, test: PromptTest, part_facts: Mapping[str, object], facts: Mapping[str, object]
) -> AnswerTable | None:
    """Writes the results, prints them and removes the parts, if the parts of all shares are there.

    Returns the answers. Returns None if parts are missing, or if another process joins them. Raises UserError if no
    mask has an answer.
    """
    folder, count = files.target, test.share.count
    if (there := len(find_answer_parts(folder, count, part_facts))) < count:
        print_line(f"{there} of {count} parts are in {folder}; the share that ends last joins them")
        return None
    with lock_answer_parts(folder):
        if len(paths := find_answer_parts(folder, count, part_facts)) < count:
            print_line(f"another process has joined the parts in {folder}")
            return None
        table = AnswerTable(paths, test.modes, test.draws_prompts)
        if len(table):
            side = test.framing.size if test.draws_prompts else None
            names, means = write_prompt_results(folder, test.pairs, table, side, facts)
            names += sorted({mode.folder for mode in test.modes}) if files.save_masks else []
            print_lines(f"{format_means(means)}\n")
            print_line(f"in {folder}: {', '.join(names)}")
        for path in paths:
            path.unlink()
    if not len(table):
        raise UserError(f"none of {len(test.pairs)} masks of {files.lists} could be used")
    return table


def describe_answer_part(
    checkpoint: Checkpoint, files: PromptTestFiles, test: PromptTest, facts: Mapping[str, object]
) -> dict[str, object]:
    """Returns what must be equal in all parts of a test."""
    status = checkpoint.path.stat()
    own = {
        "checkpoint_file": [status.st_size, status.st_mtime_ns],
        **test.facts,
        "prompts": [sha256(path) for path in files.prompts],
        "modes": [mode.title for mode in test.modes],
        "save_pred": files.save_masks,  # otherwise a part of a run without the masks would be used again
    }
    return json.loads(json.dumps({**facts, **own}))


def describe_prompt_test(checkpoint: Checkpoint, settings: Recipe, amp: str) -> dict[str, object]:
    """Returns the settings of a test for `results.json`."""
    names = ("seed", "multimask", "rgb", "mask_prompt", "mask_threshold", *["foreground"] * bool(settings.foreground))
    values = checkpoint.shape.to_facts() | {name: getattr(settings, name) for name in names} | {"amp": amp}
    return {"checkpoint": str(checkpoint.path), "model": checkpoint.family.title, "settings": values}
