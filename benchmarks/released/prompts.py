"""The released way of SAM-Med2D, for comparison: the same mathematics in the order of the released script.

- Windows are padded before `qkv`, so that padding is computed like the image.
- Attention computes scores, adds the bias and takes the softmax in separate steps.
- Adapters use convolutions.
- Images are normalised in float64 on the CPU. Clicks are drawn mask by mask in NumPy.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2unet.layers.sam_mask import Attention, split_heads
from sam2unet.layers.sam_vit import Adapter, LayerNorm2d, RelativePositionAttention
from sam2unet.layers.windows import cut_windows, join_windows
from sam2unet.losses import prompt_losses
from sam2unet.models.sam_med2d import SAMMed2D, resize_logits, select_best
from sam2unet.prompts.clicks import find_box
from sam2unet.prompts.framing import SAM_MEAN, SAM_STD
from sam2unet.prompts.lists import ImageMasks

POINTS = (1, 3, 5, 9)


@contextmanager
def released_order(model: SAMMed2D) -> Iterator[None]:
    """A context in which the layers of `model` compute in the released order."""
    forwards = {
        RelativePositionAttention: attend_with_bias,
        Adapter: adapt_by_convolutions,
        Attention: attend_step_by_step,
        LayerNorm2d: norm_step_by_step,
    }
    changed = [module for module in model.modules() if type(module) in forwards]
    for module in changed:
        module.forward = types.MethodType(forwards[type(module)], module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


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
    labels, boxes, points = [], [], []
    for index in rng.integers(len(item.masks), size=mask_num):
        mask = fit_to_square(cv2.imread(str(item.masks[index]), cv2.IMREAD_GRAYSCALE) / 255, side).astype(np.int64)
        labels.append(mask)
        boxes.append(find_box(mask > 0))
        inside = np.argwhere(mask > 0)
        points.append(inside[rng.integers(len(inside))][::-1].astype(np.float32))
    image = torch.from_numpy(fit_to_square(image, side).transpose(2, 0, 1)[None]).float()
    boxes, points = (torch.from_numpy(np.stack(values)[:, None]) for values in (boxes, points))
    return image, torch.from_numpy(np.stack(labels)[:, None]).float(), boxes, points, torch.ones(mask_num, 1)


def fit_to_square(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height >= side or width >= side:
        return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(pixels, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0)


def train_on_batch(
    model: SAMMed2D, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...], rounds: int, rng: np.random.Generator
) -> float:
    """Takes all optimizer steps of a batch. Returns the first loss."""
    images, labels, boxes, points, point_labels = batch
    side = images.shape[-1]
    prompt = {"boxes": boxes} if rng.random() > 0.5 else {"points": (points, point_labels)}
    embedding = model.image_encoder(images).repeat_interleave(len(labels) // len(images), dim=0)
    low, quality = select_best(*model.decode(embedding, **prompt))
    first_loss = take_step(resize_logits(low, side), labels, quality, optimizer)
    embedding = embedding.detach()
    no_clicks = {rounds - 1, int(rng.integers(1, rounds - 1))}
    for number in range(rounds):
        clicks = draw_clicks(resize_logits(low.detach(), side), labels, int(rng.choice(POINTS)), rng)
        points = None if number in no_clicks else clicks
        low, quality = select_best(*model.decode(embedding, points, masks=low.detach().sigmoid(), train_prompts=False))
        take_step(resize_logits(low, side), labels, quality, optimizer)
    return first_loss


def draw_clicks(logits: Tensor, labels: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    answers, truths = (logits.sigmoid() > 0.5).cpu().numpy()[:, 0], labels.cpu().numpy()[:, 0] > 0
    points, point_labels = [], []
    for answer, truth in zip(answers, truths, strict=True):
        wrong = np.argwhere(answer != truth)
        chosen = wrong[rng.integers(len(wrong), size=count)] if len(wrong) else np.zeros((count, 2), int)
        points.append(chosen[:, ::-1].astype(np.float32))
        point_labels.append(truth[chosen[:, 0], chosen[:, 1]] if len(wrong) else np.full(count, -1))
    device = logits.device
    return torch.from_numpy(np.stack(points)).to(device), torch.from_numpy(np.stack(point_labels)).float().to(device)


def take_step(logits: Tensor, labels: Tensor, quality: Tensor, optimizer: torch.optim.Optimizer) -> float:
    loss = sum(prompt_losses(logits, labels, quality).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def build_released_adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def answer_click(
    model: SAMMed2D, embedding: Tensor, points: Tensor, labels: Tensor, size: tuple[int, int]
) -> np.ndarray:
    """Returns the mask of a click, bool (height, width)."""
    low, _ = select_best(*model.decode(embedding, (points, labels)))
    logits = F.interpolate(resize_logits(low, model.side), size, mode="bilinear", align_corners=False)
    return (logits.sigmoid() > 0.5)[0, 0].cpu().numpy()
