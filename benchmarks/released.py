"""The released way, for comparison: the same mathematics in the order of the released scripts.

- Windows are padded and cut first, so that padding is computed like the image.
- SAM2-UNeXT resizes the map of DINO before it reduces its channels.
- SAM3-UNet computes the blocks of its trunk a second time for the backward pass.
- In SAM-Med2D, attention computes scores, adds the bias and takes the softmax in separate steps. Adapters use
  convolutions. Images are normalised in float64 on the CPU. Clicks are drawn mask by mask in NumPy.
"""

import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from unittest import mock

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from sam2unet.data.batches import Draw
from sam2unet.data.images.masks import read_mask
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import Pair
from sam2unet.layers.sam3_vit import RotaryAttention, Sam3ViT
from sam2unet.layers.sam_mask import Attention, split_heads
from sam2unet.layers.sam_vit import Adapter, LayerNorm2d, RelativePositionAttention
from sam2unet.layers.windows import WindowAttention, cut_windows, join_windows
from sam2unet.losses import structure_loss
from sam2unet.models.sam2unext import SAM2UNeXT
from sam2unet.models.sam_med2d import SAMMed2D, resize_logits, select_best
from sam2unet.prompts import step
from sam2unet.prompts.clicks import Points, find_box
from sam2unet.prompts.dataset import PromptTensors
from sam2unet.prompts.framing import SAM_MEAN, SAM_STD, Frame
from sam2unet.prompts.lists import ImageMasks
from sam2unet.recipe import Recipe
from sam2unet.task import Task
from sam2unet.training.trainer import TrainingStep, seed_update

Losses = Iterator[dict[str, Tensor]]


def use_released_order_(model: nn.Module) -> nn.Module:
    """Changes the layers of `model` to the released order, in place. Returns `model`."""
    for module in model.modules():
        for name, function in ORDERS.get(type(module), {}).items():
            setattr(module, name, types.MethodType(function, module))
    return model


def cut_before_attention(self: nn.Module, x: Tensor, *rotations: Tensor) -> Tensor:
    """Takes each window as an image, so `self` sees no padding. Shapes are those of its `forward`."""
    grid = tuple(x.shape[1:3])
    sides = {WindowAttention: "window", RelativePositionAttention: "side"}
    window = rotations[0].shape[1:3] if rotations else 2 * (getattr(self, sides[type(self)]),)
    window = tuple(window) if all(window) else grid
    windows = cut_windows(x, window, x.new_zeros(x.shape[-1])).unflatten(1, window)
    out = type(self).forward(self, windows, *rotations)
    pooled = window[0] // out.shape[1]
    return join_windows(out.flatten(1, 2), tuple(out.shape[1:3]), (len(x), grid[0] // pooled, grid[1] // pooled))


def attend_with_bias(self: RelativePositionAttention, qkv: Tensor, height: int, width: int) -> Tensor:
    q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    bias = self.position_bias(q.unflatten(2, (self.side, self.side)))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def attend_to_tokens(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (split_heads(project(x)) for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
    scores = (q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5
    return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def adapt_by_convolutions(self: Adapter, x: Tensor) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    change = self.spatial(x * self.channel(x.mean((2, 3)))[:, :, None, None])
    return self.norm((x + change).permute(0, 2, 3, 1))


def norm_step_by_step(self: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return self.weight[:, None, None] * ((x - mean) / (variance + self.eps).sqrt()) + self.bias[:, None, None]


def resize_and_fuse(self: SAM2UNeXT, x: Tensor, dino: Tensor, align: nn.Conv2d, reduce: nn.Conv2d) -> Tensor:
    dino = F.interpolate(align(dino), size=x.shape[2:], mode="bilinear", align_corners=False)
    return reduce(torch.cat([x, dino], dim=1))


ORDERS = {  # class of a layer -> its methods that change
    WindowAttention: {"forward": cut_before_attention},
    RotaryAttention: {"forward": cut_before_attention},
    RelativePositionAttention: {"forward": cut_before_attention, "attend": attend_with_bias},
    Attention: {"forward": attend_to_tokens},
    Adapter: {"forward": adapt_by_convolutions},
    LayerNorm2d: {"forward": norm_step_by_step},
    SAM2UNeXT: {"fuse": resize_and_fuse},
}


def make_image_transform(side: int) -> Callable:
    """Returns a function from a photograph to the input (3, S, S)."""
    from torchvision import transforms  # imports much of PyTorch, which takes seconds

    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalise])


class ReleasedMaskFolder(Dataset):
    """Item: image (3, S, S) normalised and mask (1, S, S), for a draw of `data.batches`."""

    collate = staticmethod(default_collate)

    def __init__(self, pairs: Sequence[Pair], recipe: Recipe):
        from torchvision import transforms

        self.pairs, self.to_image, size = pairs, make_image_transform(recipe.size), (recipe.size, recipe.size)
        bicubic = transforms.InterpolationMode.BICUBIC
        self.to_mask = transforms.Compose([transforms.Resize(size, bicubic), transforms.ToTensor()])

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        pair = self.pairs[draw.index]
        axes = [-1] * draw.mirror + [-2] * draw.tip
        return self.to_image(read_image(pair.image)).flip(axes), self.to_mask(read_mask(pair.mask)).flip(axes)


class ReleasedPromptFolder(Dataset):
    """Item: image (1, 3, S, S), masks (M, 1, S, S), boxes (M, 1, 4), points (M, 1, 2), labels (M, 1)."""

    def __init__(self, items: Sequence[ImageMasks], recipe: Recipe):
        self.items, self.recipe, self.rng = items, recipe, np.random.default_rng(recipe.seed)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, ...]:
        item, count, labels, boxes, points = self.items[draw.index], self.recipe.mask_num, [], [], []
        image = (cv2.imread(str(item.image)).astype(np.float64) - np.array(SAM_MEAN)) / np.array(SAM_STD)
        frame = Frame(*image.shape[:2], self.recipe.size)
        for index in self.rng.integers(len(item.masks), size=count):
            mask = frame.place(cv2.imread(str(item.masks[index]), cv2.IMREAD_GRAYSCALE) / 255).astype(np.int64)
            inside = np.argwhere(mask > 0)
            labels.append(mask)
            boxes.append(find_box(mask > 0))
            points.append(inside[self.rng.integers(len(inside))][::-1].astype(np.float32))
        image = torch.from_numpy(frame.place(image).transpose(2, 0, 1)[None]).float()
        labels, boxes, points = (torch.from_numpy(np.stack(values)[:, None]) for values in (labels, boxes, points))
        return image, labels.float(), boxes, points, torch.ones(count, 1)

    @staticmethod
    def collate(items: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*items, strict=True)]


def released_mask_step(model: nn.Module, batch: Sequence[Tensor], recipe: Recipe) -> Losses:
    """As `mask_step`. The edge weights are computed for each output."""
    images, masks = batch
    losses = {}
    for number, logits in enumerate(model(images)):
        weight = 1 + 5 * torch.abs(F.avg_pool2d(masks, kernel_size=31, stride=1, padding=15) - masks)
        losses[str(number)] = structure_loss(logits, masks, weight=weight)
    yield losses


def released_prompt_step(model: SAMMed2D, batch: Sequence[Tensor], recipe: Recipe) -> Losses:
    """As `prompt_step`."""
    images, labels, boxes, *points = batch
    batch = PromptTensors(images, labels, boxes, Points(*points), torch.default_generator, torch.default_generator)
    with mock.patch.object(step, "draw_error_points", draw_clicks):
        yield from step.prompt_step(model, batch, recipe)


def draw_clicks(logits: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Points:
    """Draws `count` clicks per mask where logits (M, 1, S, S) are wrong."""
    answers, truths = (logits.sigmoid() > 0.5).cpu().numpy()[:, 0], labels.cpu().numpy()[:, 0] > 0
    coords, point_labels = [], []
    for answer, truth in zip(answers, truths, strict=True):
        wrong, chosen = np.argwhere(answer != truth), np.zeros((count, 2), int)
        if len(wrong):
            chosen = wrong[torch.randint(len(wrong), (count,), generator=generator).numpy()]
        coords.append(chosen[:, ::-1].astype(np.float32))
        point_labels.append(truth[chosen[:, 0], chosen[:, 1]] if len(wrong) else np.full(count, -1))
    parts = (np.stack(part).astype(np.float32) for part in (coords, point_labels))
    return Points(*(torch.from_numpy(part).to(logits.device) for part in parts))


def take_updates(
    model: nn.Module, take: TrainingStep, recipe: Recipe, device: torch.device, batches: Iterable[Sequence[Tensor]]
) -> Iterator[Tensor]:
    """Takes the optimizer steps of each batch. Yields the first loss. AdamW gets every parameter."""
    for module in use_released_order_(model).modules():
        if isinstance(module, Sam3ViT):
            module.checkpointing = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    for number, batch in enumerate(batches):
        seed_update(recipe.seed, number)  # so that the model draws what it draws in our way
        totals = []
        for losses in take(model, [part.to(device) for part in batch], recipe):
            loss = sum(losses.values())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            totals.append(loss.detach())
        yield totals[0]


def open_task(task: Task) -> tuple[Dataset, TrainingStep]:
    """Returns the data set and the training step of a task of the package."""
    if hasattr(task, "items"):
        return ReleasedPromptFolder(task.items, task.recipe), released_prompt_step
    return ReleasedMaskFolder(task.pairs, task.recipe), released_mask_step


def answer_click(
    model: SAMMed2D, embedding: Tensor, points: tuple[Tensor, Tensor], size: tuple[int, int]
) -> np.ndarray:
    """Returns the mask of a click, bool (height, width)."""
    low, _ = select_best(*model.decode(embedding, points))
    return (resize_logits(resize_logits(low, model.side), size).sigmoid() > 0.5)[0, 0].cpu().numpy()
