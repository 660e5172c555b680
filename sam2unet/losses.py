import torch
import torch.nn.functional as F
from torch import Tensor


def edge_weight(mask: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> 1 far from edges, up to 6 beside them, by the mean over 31 x 31 pixels.

    Taken over columns, then over rows, which is the same mean in a fifteenth of the additions.
    """
    mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), stride=1, padding=(15, 0)), (1, 31), stride=1, padding=(0, 15))
    return 1 + 5 * (mean - mask).abs()


def structure_loss(logits: Tensor, mask: Tensor, weighted_bce: bool = False, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy plus an IoU in which pixels near an edge count up to six times; a scalar, the mean over the batch.

    arXiv 2408.08870, section 3.4.

    Args:
        logits, mask: (B, 1, H, W); logits before the sigmoid, the mask in [0, 1], soft edges welcome.
        weighted_bce: weigh the cross-entropy too, as the paper writes it. Off by default, as in every released model:
            the released code's `reduce="none"` makes PyTorch take the plain mean over the batch.
        weight: `edge_weight(mask)`, where the caller has it.
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
    """SAM-Med2D's loss in its three parts, to be added up (arXiv 2308.16184; weights as released).

    Args:
        logits, mask: (B, 1, H, W); logits before the sigmoid, the mask 0 or 1.
        quality: (B, 1), the IoU that the model expects.
    """
    return {
        "focal": 20 * focal_loss(logits, mask),
        "dice": dice_loss(logits, mask),
        "iou": quality_loss(logits, mask, quality),
    }


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in which pixels that are nearly right count little (arXiv 1708.02002); the mean over all pixels.

    Gradients also pass through these weights. As released it takes the logarithm of a rounded probability: in float32
    that of 1 - p stands still at -27.6, without a gradient, from logits of about 17.
    """
    prob = probability(logits)
    inside = 0.25 * mask * (1 - prob) ** 2 * (prob + 1e-12).log()
    outside = 0.75 * (1 - mask) * prob**2 * (1 - prob + 1e-12).log()
    return -(inside + outside).mean()


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """One less one Dice for the whole batch, as released: large masks count more than small ones."""
    prob = probability(logits)
    return 1 - (2 * (prob * mask).sum() + 1) / (prob.sum() + mask.sum() + 1)


def quality_loss(logits: Tensor, mask: Tensor, quality: Tensor) -> Tensor:
    """Squared distance of each expected IoU to the one IoU of the whole batch, which is not detached, as released."""
    prob = probability(logits)
    overlap = (prob * mask).sum()
    iou = (overlap + 1e-7) / (prob.sum() + mask.sum() - overlap + 1e-7)
    return (iou - quality).square().mean()


def probability(logits: Tensor) -> Tensor:
    """In float32 at least: sums over a batch and 1e-12 are beyond half precision."""
    return (logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits).sigmoid()
