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
