"""Models for prompts in training: lists of images with their masks, judged by answers to a box and to a point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ..data.pairs import Pair
from ..data.pictures import draw_overview, pick_evenly
from ..data.reading import read_image
from ..errors import UserError
from ..families.table import Family
from ..recipe import MASK_FIELDS, Recipe, Study
from ..runtime.processes import Processes
from ..scoring.columns import Metric
from ..task import RunData, draw_held_out
from .dataset import PromptBatches, PromptFolder
from .framing import Framing, read_label
from .lists import check_masks_of, find_problems, read_test_list, read_train_list
from .scores import BOX, PromptMode, PromptTestOptions, answer_all, compute_means, gather_answers, group_by_image
from .step import prompt_step

VALIDATION_MODES = (BOX, PromptMode(points=1))


class PromptTask:
    """A `Task`."""

    step = staticmethod(prompt_step)

    metrics = {
        f"{way.title} {name}": Metric(f"{way.title} {name}", f"asked by {way.title}, mean over masks")
        for way in VALIDATION_MODES
        for name in ("Dice", "IoU")
    }
    best = "box Dice"
    cached = False
    unused = MASK_FIELDS

    def __init__(self, family: Family, recipe: Recipe, data: RunData):
        recipe.refuse_others(self.unused, family.title)
        if data.images or data.val_images:
            raise UserError(
                f"{family.title} takes lists, not folders; scripts/make_prompt_data.py makes them for --data_path"
            )
        if not data.lists:
            raise UserError("--data_path, a folder with image2label_train.json, is missing")
        self.recipe = recipe
        self.framing = Framing(recipe.size, rgb=recipe.rgb, mask_threshold=recipe.mask_rule)
        self.skip_bad = data.on_bad_image == "skip"
        items = read_train_list(data.lists)
        held = set(draw_held_out(len(items), data.val_fraction, recipe.seed))
        self.items = [item for i, item in enumerate(items) if i not in held]
        self.held_out = [Pair(items[i].image, mask) for i in sorted(held) for mask in items[i].masks]
        if data.val_lists:
            self.held_out = read_test_list(data.val_lists)

    @property
    def pairs(self) -> list[Pair]:
        return [Pair(item.image, mask) for item in self.items for mask in item.masks]

    def check(self, study: Study | None) -> None:
        if not self.skip_bad:
            check_masks_of(self.pairs, self.framing)
        elif self.framing.mask_threshold is not None:
            find_problems(self.pairs, self.framing)
        if self.held_out:
            check_masks_of(self.held_out, self.framing, strict=True)

    def batches(self, processes: Processes) -> PromptBatches:
        recipe = self.recipe
        return PromptBatches(len(self.items), recipe.batch_size, recipe.seed, processes.rank, processes.world)

    def dataset(self, cache: str, folder: Path, processes: Processes) -> PromptFolder:
        return PromptFolder(self.items, self.framing, self.recipe.mask_num, self.skip_bad)

    def words(self) -> str:
        return f"{len(self.items)} images with {len(self.pairs)} masks at {self.recipe.size}x{self.recipe.size}"

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        images = group_by_image(self.held_out, len(self.held_out))
        own = [place for places in images[processes.rank :: processes.world] for place in places]
        found = answer_all(model, self.held_out, VALIDATION_MODES, self.framing, self.asking, own)
        means = compute_means(gather_answers(processes, (one._replace(logits=None, prompts=None) for one in found)))
        return {f"{way.title} {name}": means[way][name] for way in VALIDATION_MODES for name in ("Dice", "IoU")}

    @property
    def asking(self) -> PromptTestOptions:
        recipe = self.recipe
        return PromptTestOptions(recipe.seed, recipe.multimask, recipe.mask_prompt)

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        lines = [f"{'validation':<12}" + "".join(f"{title:>12}" for title in self.metrics)]
        for epoch, row in sorted(scores.items()):
            lines.append(f"{f'epoch {epoch}':<12}" + "".join(f"{row[key]:>12.4f}" for key in self.metrics))
        return "\n".join(lines)

    def draw(self, model: nn.Module, path: Path) -> None:
        """Image, mask and answer to the box."""
        places = pick_evenly(range(len(self.held_out)))
        found = {one.place: one for one in answer_all(model, self.held_out, [BOX], self.framing, self.asking, places)}
        rows = []
        for place in places:
            pair, answer = self.held_out[place], found[place]
            mask = read_label(pair.mask, self.framing.mask_threshold)
            rows.append((read_image(pair.image), to_picture(mask), to_picture(answer.logits[0].cpu().numpy() > 0)))
        draw_overview(rows, path)


def to_picture(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
