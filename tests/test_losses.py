"""The structure loss against the released one, as it acts and as the papers write it."""

import numpy as np
import pytest
import torch

from sam2unet import structure_loss
from sam2unet.classes import IGNORED
from sam2unet.losses import class_loss, one_against_rest_loss


@pytest.mark.parametrize("weighted_bce, name", [(False, "upstream"), (True, "paper")])
def test_value_and_gradient(weighted_bce, name, reference, fill):
    golden = np.load(reference / "structure_loss.npz")
    logits = (3 * fill.fill_input((2, 1, 352, 352), 5)).requires_grad_()
    mask = fill.fill_mask((2, 1, 352, 352), 5)
    loss = structure_loss(logits, mask, weighted_bce)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[name], rtol=1e-6)
    np.testing.assert_allclose(logits.grad[..., ::8, ::8], golden[f"grad_{name}"], rtol=1e-4, atol=1e-10)
    exact = structure_loss(logits.detach().double(), mask.double(), weighted_bce)
    np.testing.assert_allclose(exact.item(), golden[f"{name}_fp64"], rtol=1e-12)


@pytest.mark.parametrize("target", ["zeros", "ones", "half", "soft"])
def test_special_targets(target, reference, fill):
    golden = np.load(reference / "structure_loss.npz")[f"target_{target}"]
    logits = 3 * fill.fill_input((2, 1, 64, 64), 5)
    mask = {
        "zeros": torch.zeros_like(logits),
        "ones": torch.ones_like(logits),
        "half": torch.full_like(logits, 0.5),
        "soft": fill.fill_input((2, 1, 64, 64), 6).sigmoid(),
    }[target]
    ours = [structure_loss(logits, mask).item(), structure_loss(logits, mask, weighted_bce=True).item()]
    np.testing.assert_allclose(ours, golden, rtol=1e-6)


@pytest.fixture
def class_data(fill):
    """Logits of 4 classes, and masks with 3 of them and ignored pixels."""
    logits = (3 * fill.fill_input((2, 4, 48, 64), 5)).double().requires_grad_()
    indices = torch.randint(0, 3, (2, 1, 48, 64), dtype=torch.uint8)
    indices[:, :, :7] = IGNORED
    return logits, indices


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 7.0]])
def test_class_loss_is_cross_entropy_plus_dice_of_the_present_classes(class_data, weights):
    logits, indices = class_data
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    kept = indices[:, 0] != IGNORED
    prob, target = logits.softmax(1).permute(0, 2, 3, 1)[kept], indices[:, 0][kept].long()
    share = torch.ones(4, dtype=torch.float64) if weights is None else weights
    entropy = -(share[target] * prob[range(len(target)), target].log()).sum() / share[target].sum()
    dice = [2 * prob[target == c, c].sum() / (prob[:, c].sum() + (target == c).sum()) for c in range(3)]
    wanted = entropy + 1 - sum(share[c] * dice[c] for c in range(3)) / share[:3].sum()
    loss = class_loss(logits, indices, weights)
    np.testing.assert_allclose(loss.item(), wanted.item(), rtol=1e-7)  # 1e-5 is added to Dice
    loss.backward()
    assert logits.grad[:, :, 7:].abs().min() > 0 and not logits.grad[:, :, :7].any()


def test_one_class_against_the_rest_is_the_mean_of_the_released_losses(class_data):
    logits, indices = class_data
    masks = (indices == torch.arange(4)[:, None, None]).double()
    released = [structure_loss(logits[:, [c]], masks[:, [c]]) for c in range(4)]
    everything = torch.where(indices == IGNORED, 3, indices)  # without ignored pixels
    wanted = sum(structure_loss(logits[:, [c]], (everything == c).double()) for c in range(4)) / 4
    np.testing.assert_allclose(one_against_rest_loss(logits, everything).item(), wanted.item(), rtol=1e-12)
    ours = one_against_rest_loss(logits, indices)
    assert abs(ours - sum(released) / 4) > 1e-3  # the ignored pixels count in `released`
    ours.backward()
    assert not logits.grad[:, :, :7].any() and logits.grad[:, :, 7:].abs().min() > 0


@pytest.mark.parametrize("loss", [class_loss, one_against_rest_loss])
def test_a_batch_without_a_counted_pixel_changes_nothing(loss, class_data):
    logits, indices = class_data
    value = loss(logits, torch.full_like(indices, IGNORED))
    value.backward()
    assert value == 0 and not logits.grad.any()


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_losses_of_classes_do_not_lose_digits_under_autocast(amp, fill):
    """The class counts of a batch are above 65504, the largest number of fp16."""
    logits, indices = 3 * fill.fill_input((2, 4, 211, 211), 5), torch.randint(0, 3, (2, 1, 211, 211), dtype=torch.uint8)
    wanted = [loss(logits, indices) for loss in (class_loss, one_against_rest_loss)]
    with torch.autocast("cpu", dtype=amp):
        found = [loss(logits, indices) for loss in (class_loss, one_against_rest_loss)]
    assert found == wanted
