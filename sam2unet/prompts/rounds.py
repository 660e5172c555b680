"""The click loop: the model answers a prompt, and clicks and its own answer correct it (arXiv 2308.16184, section 3.3).

Training and test run `run_rounds`. On the demo page, the visitor makes the clicks, and `RoundPrompt.correct` makes the
next prompt from them. Training replaces the clicks of the earlier rounds. Test and demo page keep them. Letters: M
masks, N points per mask, S side of the square, g side of the image embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..models.sam_med2d import resize_logits, select_best
from .clicks import Points


class RoundPrompt(NamedTuple):
    """The prompt of one round for M masks. A part that is None is not used."""

    points: Points | None = None  # coordinates (M, N, 2) and labels (M, N)
    boxes: Tensor | None = None  # float32 (M, 4) or (M, 1, 4), x0, y0, x1, y1
    masks: Tensor | None = None  # float32 (M, 1, 4g, 4g), the previous answer, as `to_mask_prompt` returns it

    def correct(self, clicks: Points | None, masks: Tensor, keep_clicks: bool) -> RoundPrompt:
        """Returns the prompt of the next round, without boxes, from new clicks and the previous answer `masks`.

        With `keep_clicks`, the new clicks are added to the points of this prompt. Otherwise they replace them.
        """
        if keep_clicks and self.points is not None:
            clicks = self.points if clicks is None else self.points.append(clicks)
        return RoundPrompt(clicks, None, masks)


class RoundAnswer(NamedTuple):
    """The best mask of each of M masks. The logits are before the sigmoid."""

    low: Tensor  # logits (M, 1, 4g, 4g)
    full: Tensor  # the same logits, resized to (M, 1, S, S)
    quality: Tensor  # the IoU that the model expects, (M, 1)


def run_rounds(
    decode: Callable[[RoundPrompt], tuple[Tensor, Tensor]],
    prompt: RoundPrompt,
    click_counts: Sequence[int],
    draw_clicks: Callable[[Tensor, int], Points],
    side: int,
    mask_prompt: str,
    keep_clicks: bool,
) -> Iterator[RoundAnswer]:
    """Yields the answer to `prompt`, then one corrected answer for each item of `click_counts`.

    Args:
        decode: runs the model. Returns its masks (M, K, 4g, 4g) and their expected IoU (M, K).
        click_counts: the numbers of new clicks per mask. 0: the previous answer is the only new prompt.
        draw_clicks: draws this number of clicks per mask where an answer (M, 1, S, S) is wrong.
        mask_prompt: the form in which an answer becomes a prompt, `probability` or `logits`.
    """
    answer = select_answer(decode(prompt), side)
    yield answer
    for count in click_counts:
        clicks = draw_clicks(answer.full.detach(), count) if count else None
        prompt = prompt.correct(clicks, to_mask_prompt(answer.low.detach(), mask_prompt), keep_clicks)
        answer = select_answer(decode(prompt), side)
        yield answer


def select_answer(output: tuple[Tensor, Tensor], side: int) -> RoundAnswer:
    low, quality = select_best(*output)
    return RoundAnswer(low, resize_logits(low, side), quality)


def to_mask_prompt(low: Tensor, mask_prompt: str) -> Tensor:
    """Logits (M, 1, 4g, 4g) -> a mask prompt: probabilities as in the released code, or logits as in SAM."""
    return low.sigmoid() if mask_prompt == "probability" else low
