"""The losses. Logits are before the sigmoid. B images or prompts, H and W in pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .classes import IGNORED


def edge_weight(mask: Tensor) -> Tensor:
    """Mask (B, 1, H, W) in [0, 1] -> weights (B, 1, H, W): 1 far from edges, up to 6 at an edge.

    The weight is 1 + 5 * |mean - mask|. The mean is over 31 x 31 pixels, and pixels outside of the image count as 0.
    """
    # Vertical, then horizontal: the same mean as in one step with a fifteenth of the additions.
    mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), stride=1, padding=(15, 0)), (1, 31), stride=1, padding=(0, 15))
    return 1 + 5 * (mean - mask).abs()


def structure_loss(
    logits: Tensor,
    mask: Tensor,
    weighted_bce: bool = False,
    weight: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Cross-entropy plus an IoU loss (arXiv 2408.08870, section 3.4). Returns a scalar, the mean over the batch.

    Pixels near an edge count up to six times in the IoU loss.

    Args:
        logits, mask: (B, 1, H, W). The logits are before the sigmoid. The mask is in [0, 1]; soft edges are allowed.
        weighted_bce: weight the cross-entropy too, as in the formula of the paper. Off by default, as in every released
            model: `reduce="none"` in the released code makes PyTorch take the plain mean over the batch.
        weight: `edge_weight(mask)`, if the caller has already computed it.
        counted: bool (B, 1, H, W). Pixels that are False count nowhere. None: all pixels count.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    weight = edge_weight(mask) if weight is None else weight
    if counted is not None:
        weight = weight * counted
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    if weighted_bce:
        bce = (weight * bce).sum((2, 3)) / (weight.sum((2, 3)) + (0 if counted is None else 1e-7))
    else:
        bce = bce.mean() if counted is None else (bce * counted).sum() / counted.sum().clamp(min=1)
    prob = logits.sigmoid()
    overlap = (weight * prob * mask).sum((2, 3))
    total = (weight * (prob + mask)).sum((2, 3))
    return (bce + 1 - (overlap + 1) / (total - overlap + 1)).mean()


def class_loss(logits: Tensor, indices: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice, for several classes (nnU-Net, arXiv 1809.10486). Returns a scalar.

    Both are means over the pixels that are not ignored; a batch without such a pixel has the loss 0. Dice is computed
    for the whole batch, and averaged over the classes that are present in its masks.

    Args:
        logits: (B, C, H, W), before the softmax.
        indices: integers (B, 1, H, W), the class of each pixel or `classes.IGNORED`.
        weights: (C,), the weight of each class in both parts. None: equal weights.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    weights = torch.ones_like(logits[0, :, 0, 0]) if weights is None else weights.to(logits)
    one_hot = split_classes(indices, logits)
    # On a GPU, the sum over pixels inside `cross_entropy` has no deterministic implementation.
    reduction = "none" if logits.is_cuda and torch.are_deterministic_algorithms_enabled() else "sum"
    entropy = F.cross_entropy(logits, indices[:, 0].long(), weights, ignore_index=IGNORED, reduction=reduction).sum()
    prob = logits.softmax(1) * (indices != IGNORED)
    overlap, expected, present = (part.sum((0, 2, 3)) for part in (prob * one_hot, prob, one_hot))
    dice = (2 * overlap + 1e-5) / (expected + present + 1e-5)
    share = weights * (present > 0)
    pixels = present.dot(weights)  # with `@`, autocast would count in half precision, in which fp16 ends at 65504
    return entropy / pixels.clamp(min=1e-7) + (share * (1 - dice)).sum() / share.sum().clamp(min=1e-7)


def one_against_rest_loss(
    logits: Tensor, indices: Tensor, weighted_bce: bool = False, weights: Tensor | None = None
) -> Tensor:
    """The mean over the classes of `structure_loss` of each class against the rest. Ignored pixels count nowhere.

    Args:
        logits, indices, weights: as in `class_loss`.
    """
    masks, counted = split_classes(indices, logits).split(1, dim=1), indices != IGNORED
    pairs = zip(logits.split(1, dim=1), masks, strict=True)
    losses = torch.stack([structure_loss(part, mask, weighted_bce, counted=counted) for part, mask in pairs])
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def split_classes(indices: Tensor, logits: Tensor) -> Tensor:
    """Indices (B, 1, H, W) -> one mask per class, (B, C, H, W) of 0 and 1. `logits` give C and the number type."""
    kind = torch.promote_types(logits.dtype, torch.float32)  # half precision cannot count pixels
    return (indices == torch.arange(logits.shape[1], device=logits.device)[:, None, None]).to(kind)


def prompt_losses(logits: Tensor, mask: Tensor, quality: Tensor) -> dict[str, Tensor]:
    """Returns the three parts of SAM-Med2D's loss; the loss is their sum (arXiv 2308.16184, section 3.3).

    The factor 20 of the focal loss is that of the released code.

    Args:
        logits, mask: (B, 1, H, W). The logits are before the sigmoid. The mask is 0 or 1.
        quality: (B, 1), the IoU that the model expects.
    """
    return {
        "focal": 20 * focal_loss(logits, mask),
        "dice": dice_loss(logits, mask),
        "iou": quality_loss(logits, mask, quality),
    }


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in which a pixel counts less, the better it is predicted (arXiv 1708.02002, equation 5).

    Returns a scalar, the mean over all pixels. Gradients also flow through the weights (1 - p)^2 and p^2.

    As in the released code, the logarithm is taken of a rounded probability. In float32, log(1 - p + 1e-12) therefore
    stays at -27.6 and has no gradient for logits above about 17.
    """
    prob = to_probability(logits)
    inside = 0.25 * mask * (1 - prob) ** 2 * (prob + 1e-12).log()
    outside = 0.75 * (1 - mask) * prob**2 * (1 - prob + 1e-12).log()
    return -(inside + outside).mean()


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns 1 - Dice, a scalar. As released, there is one Dice for the whole batch, so large masks count more."""
    prob = to_probability(logits)
    return 1 - (2 * (prob * mask).sum() + 1) / (prob.sum() + mask.sum() + 1)


def quality_loss(logits: Tensor, mask: Tensor, quality: Tensor) -> Tensor:
    """Returns the mean squared difference between each expected IoU and the IoU of the whole batch, a scalar.

    As released, this is the IoU of all masks together, and gradients also flow through it to the masks.
    """
    prob = to_probability(logits)
    overlap = (prob * mask).sum()
    iou = (overlap + 1e-7) / (prob.sum() + mask.sum() - overlap + 1e-7)
    return (iou - quality.to(iou.dtype)).square().mean()


def to_probability(logits: Tensor) -> Tensor:
    """Returns the sigmoid, in float32 for half precision, which cannot represent large sums or 1e-12."""
    return (logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits).sigmoid()
