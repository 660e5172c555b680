"""SAM-Med2D's scores of one mask against another."""

from torch import Tensor


def overlap(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and Dice of each item in double precision, (B,) and (B,); 1 where both masks are empty.

    The released test rounds each item's to 4 decimals before it averages over items.

    Args:
        logits, mask: (B, 1, H, W); an object is where the logit is above 0, where the mask is not 0. Unlike the
            released code this takes no probabilities, which it told from logits by their smallest value alone.
    """
    found, wanted = logits.flatten(1) > 0, mask.flatten(1) > 0
    both = (found & wanted).sum(1).double()
    areas = (found.sum(1) + wanted.sum(1)).double()
    return (both + 1e-7) / (areas - both + 1e-7), (2 * both + 1e-7) / (areas + 1e-7)
