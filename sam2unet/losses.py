"""The losses. Logits are before the sigmoid. B images or prompts, H and W in pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def edge_weight(mask: Tensor) -> Tensor:
    """Mask (B, 1, H, W) in [0, 1] -> weights (B, 1, H, W): 1 far from edges, up to 6 at an edge.

    The weight is 1 + 5 * |mean - mask|. The mean is over 31 x 31 pixels, and pixels outside of the image count as 0.
    """
    # Vertical, then horizontal: the same mean as in one step with a fifteenth of the additions.
    mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), stride=1, padding=(15, 0)), (1, 31), stride=1, padding=(0, 15))
    return 1 + 5 * (mean - mask).abs()


def structure_loss(logits: Tensor, mask: Tensor, weighted_bce: bool = False, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy plus an IoU loss (arXiv 2408.08870, section 3.4). Returns a scalar, the mean over the batch.

    Pixels near an edge count up to six times in the IoU loss.

    Args:
        logits, mask: (B, 1, H, W). The logits are before the sigmoid. The mask is in [0, 1]; soft edges are allowed.
        weighted_bce: weight the cross-entropy too, as in the formula of the paper. Off by default, as in every released
            model: `reduce="none"` in the released code makes PyTorch take the plain mean over the batch.
        weight: `edge_weight(mask)`, if the caller has already computed it.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    weight = edge_weight(mask) if weight is None else weight
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3)) if weighted_bce else bce.mean()
    prob = logits.sigmoid()
    overlap = (weight * prob * mask).sum((2, 3))
    total = (weight * (prob + mask)).sum((2, 3))
    return (bce + 1 - (overlap + 1) / (total - overlap + 1)).mean()


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
    return (iou - quality).square().mean()


def to_probability(logits: Tensor) -> Tensor:
    """Returns the sigmoid, in float32 for half precision, which cannot represent large sums or 1e-12."""
    return (logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits).sigmoid()
