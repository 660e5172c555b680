"""The released way of SAM-Med2D, for comparison: the same mathematics in the order of the released script.

- Windows are padded before `qkv`, so that padding is computed like the image.
- Attention computes scores, adds the bias and takes the softmax in separate steps.
- Adapters use convolutions.
- Images are normalised in float64 on the CPU. Clicks are drawn mask by mask in NumPy.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor

from sam2unet.layers.sam_mask import Attention, split_heads
from sam2unet.layers.sam_vit import Adapter, LayerNorm2d, RelativePositionAttention
from sam2unet.layers.windows import cut_windows, join_windows
from sam2unet.models.sam_med2d import SAMMed2D, resize_logits, select_best
from sam2unet.prompts import step
from sam2unet.prompts.clicks import Points, find_box
from sam2unet.prompts.dataset import PromptTensors
from sam2unet.prompts.framing import SAM_MEAN, SAM_STD, Frame
from sam2unet.prompts.lists import ImageMasks
from sam2unet.prompts.step import prompt_step
from sam2unet.recipe import Recipe


@contextmanager
def released_order(model: SAMMed2D) -> Iterator[None]:
    """A context in which the layers of `model` and the clicks of training are computed in the released order."""
    forwards = {
        RelativePositionAttention: attend_with_bias,
        Adapter: adapt_by_convolutions,
        Attention: attend_step_by_step,
        LayerNorm2d: norm_step_by_step,
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(step, "draw_error_points", draw_clicks))
        for module in model.modules():
            if forward := forwards.get(type(module)):
                stack.enter_context(mock.patch.object(module, "forward", types.MethodType(forward, module)))
        yield


def attend_with_bias(self: RelativePositionAttention, x: Tensor) -> Tensor:
    shape, window = tuple(x.shape[:3]), (self.side, self.side)
    windows = cut_windows(x, window, x.new_zeros(x.shape[-1]))  # (windows, tokens, C)
    q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.position_bias(q.unflatten(2, window))
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return join_windows(self.proj(out), window, shape)


def adapt_by_convolutions(self: Adapter, x: Tensor) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    change = self.spatial(x * self.channel(x.mean((2, 3)))[:, :, None, None])
    return self.norm((x + change).permute(0, 2, 3, 1))


def attend_step_by_step(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (split_heads(project(x)) for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
    scores = (q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5
    return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def norm_step_by_step(self: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return self.weight[:, None, None] * ((x - mean) / (variance + self.eps).sqrt()) + self.bias[:, None, None]


def read_item(item: ImageMasks, side: int, mask_num: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Returns image (1, 3, S, S), masks (M, 1, S, S), boxes (M, 1, 4), points (M, 1, 2), labels (M, 1)."""
    image = (cv2.imread(str(item.image)).astype(np.float64) - np.array(SAM_MEAN)) / np.array(SAM_STD)
    frame, labels, boxes, points = Frame(*image.shape[:2], side), [], [], []
    for index in rng.integers(len(item.masks), size=mask_num):
        mask = frame.place(cv2.imread(str(item.masks[index]), cv2.IMREAD_GRAYSCALE) / 255).astype(np.int64)
        labels.append(mask)
        boxes.append(find_box(mask > 0))
        inside = np.argwhere(mask > 0)
        points.append(inside[rng.integers(len(inside))][::-1].astype(np.float32))
    image = torch.from_numpy(frame.place(image).transpose(2, 0, 1)[None]).float()
    boxes, points = (torch.from_numpy(np.stack(values)[:, None]) for values in (boxes, points))
    return image, torch.from_numpy(np.stack(labels)[:, None]).float(), boxes, points, torch.ones(mask_num, 1)


def take_updates(
    model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, batches: Iterable, device: torch.device
) -> Iterator[float]:
    """Reads batches of draws and trains on them. Yields a loss of each."""
    rng, generator = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for draws in batches:
        parts = [read_item(items[draw.index], recipe.size, recipe.mask_num, rng) for draw in draws]
        images, labels, boxes, *points = (torch.cat(values).to(device) for values in zip(*parts, strict=True))
        batch = PromptTensors(images, labels, boxes, Points(*points), generator, generator)
        yield train_on_batch(model, optimizer, batch, recipe)


def train_on_batch(model: SAMMed2D, optimizer: torch.optim.Optimizer, batch: PromptTensors, recipe: Recipe) -> float:
    """Takes all optimizer steps of a batch. Returns the last loss."""
    with released_order(model):
        for losses in prompt_step(model, batch, recipe):
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = loss.item()
    return value


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
    return Points(
        *(torch.from_numpy(np.stack(part).astype(np.float32)).to(logits.device) for part in (coords, point_labels))
    )


def answer_click(
    model: SAMMed2D, embedding: Tensor, points: tuple[Tensor, Tensor], size: tuple[int, int]
) -> np.ndarray:
    """Returns the mask of a click, bool (height, width)."""
    low, _ = select_best(*model.decode(embedding, points))
    return (resize_logits(resize_logits(low, model.side), size).sigmoid() > 0.5)[0, 0].cpu().numpy()
