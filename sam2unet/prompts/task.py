"""The training task of SAM-Med2D: lists of images with their masks. Validation prompts with a box and with a point."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ..classes import Classes
from ..data.checks.check import Sizes, choose_checked, list_sizes, measure_sizes
from ..data.images.pictures import draw_overview, pick_evenly
from ..data.images.reading import read_image
from ..data.index.select import open_index_parts
from ..data.index.table import Items, Pairs
from ..data.pairs import Pair
from ..errors import UserError
from ..families.table import Family
from ..models.sam_med2d import SAMMed2D
from ..recipe import MASK_FIELDS, Recipe, Study
from ..runtime.processes import Processes
from ..scoring.columns import Metric
from ..task import RunData, draw_held_out
from .dataset import PromptBatches, PromptFolder
from .framing import Framing, read_label
from .groups import group_by_image
from .lists import find_problems, read_test_list, read_train_list, refuse_bad_masks
from .modes import BOX, PromptMode
from .scores import PromptTestOptions, answer_all, compute_means, gather_answers
from .step import prompt_step

VALIDATION_MODES = (BOX, PromptMode(points=1))


class PromptTask:
    """Implements `Task` for models that take prompts. Raises UserError if the recipe, the data or a list is wrong."""

    step = staticmethod(prompt_step)

    metrics = {
        f"{mode.title} {name}": Metric(f"{mode.title} {name}", f"{name} with the prompt {mode.title}, mean over masks")
        for mode in VALIDATION_MODES
        for name in ("Dice", "IoU")
    }
    best_metric = "box Dice"
    has_cache = False
    unused_fields = MASK_FIELDS

    def __init__(self, family: Family, recipe: Recipe, data: RunData):
        recipe.refuse_others(self.unused_fields, family.title)
        if data.images or data.val_images:
            raise UserError(
                f"{family.title} takes lists, not folders; sam2unet make-prompts makes them; give --data_path"
            )
        if not data.lists and not data.index:
            raise UserError("--data_path is missing; give a folder with image2label_train.json")
        self.recipe, rule = recipe, recipe.mask_rule
        assert not isinstance(rule, Classes)
        self.framing = Framing(recipe.size, rgb=recipe.rgb, mask_threshold=rule)
        self.skip_bad = data.on_bad_image == "skip"
        self.index, self.groups = data.index, None
        self.index_facts: dict[str, object] | None = None
        if data.index:
            training, held_out, self.index_facts = open_index_parts(data.index, recipe.seed, rule, strict=True)
            self.items, self.groups = training.items, training.groups
            self.held_out: Sequence[Pair] = held_out.pairs if held_out else ()
        else:
            assert data.lists is not None
            items = Items.pack(read_train_list(data.lists))
            is_held_out = np.zeros(len(items), bool)
            is_held_out[draw_held_out(len(items), data.val_fraction, recipe.seed)] = True
            self.items, self.held_out = items.choose(~is_held_out), items.choose(is_held_out).pairs
        if data.val_lists:
            self.held_out = Pairs.pack(read_test_list(data.val_lists))

    @property
    def pairs(self) -> Pairs:
        return self.items.pairs

    def check(self, study: Study | None, processes: Processes) -> tuple[Sizes, Sizes]:
        index = self.index  # its files were checked when it was made
        parts = (() if index else self.pairs, () if index and index.split else self.held_out)
        sizes = []
        for pairs, is_training in zip(parts, (True, False), strict=True):
            sample = choose_checked(pairs, "sam2unet make-prompts")
            images = measure_sizes(sample, processes)
            if not is_training or not self.skip_bad:
                refuse_bad_masks(sample, self.framing, not is_training, processes, images)
            elif self.framing.mask_threshold is not None:
                find_problems(sample, self.framing, False, processes, images)
            sizes.append(list_sizes(images.values()))
        return sizes[0], sizes[1]

    def batches(self, processes: Processes) -> PromptBatches:
        recipe = self.recipe
        length, place = len(self.items), (processes.rank, processes.world)
        return PromptBatches(length, recipe.batch_size, recipe.seed, *place, groups=self.groups)

    def dataset(self, cache: str, folder: Path, processes: Processes) -> PromptFolder:
        return PromptFolder(self.items, self.framing, self.recipe.mask_num, self.skip_bad)

    def describe(self) -> str:
        return f"{len(self.items)} images with {len(self.pairs)} masks at {self.recipe.size}x{self.recipe.size}"

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        assert isinstance(model, SAMMed2D)
        images = group_by_image(self.held_out)
        local = [index for indices in images[processes.rank :: processes.world] for index in indices]
        answers = answer_all(model, self.held_out, VALIDATION_MODES, self.framing, self.options, local)
        small = (answer._replace(logits=None, prompts=None) for answer in answers)
        means = compute_means(gather_answers(processes, small))
        return {f"{mode.title} {name}": means[mode][name] for mode in VALIDATION_MODES for name in ("Dice", "IoU")}

    @property
    def options(self) -> PromptTestOptions:
        recipe = self.recipe
        return PromptTestOptions(recipe.seed, recipe.multimask, recipe.mask_prompt)

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        lines = [f"{'validation':<12}" + "".join(f"{title:>12}" for title in self.metrics)]
        for epoch, row in sorted(scores.items()):
            lines.append(f"{f'epoch {epoch}':<12}" + "".join(f"{row[key]:>12.4f}" for key in self.metrics))
        return "\n".join(lines)

    def draw(self, model: nn.Module, path: Path) -> None:
        """Draws some images with their masks and the answers to their boxes."""
        assert isinstance(model, SAMMed2D)
        indices = pick_evenly(range(len(self.held_out)))
        answers = answer_all(model, self.held_out, [BOX], self.framing, self.options, indices)
        masks = {a.index: a.logits[0].cpu().numpy() > 0 for a in answers if a.logits is not None}
        rows = []
        for index in indices:
            pair = self.held_out[index]
            truth = read_label(pair.mask, self.framing.mask_threshold)
            rows.append((read_image(pair.image), to_picture(truth), to_picture(masks[index])))
        draw_overview(rows, path)


def to_picture(mask: np.ndarray) -> Image.Image:
    """Bool (H, W) -> an image with the values 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)
