"""The structure loss against the released one, as it acts and as the papers write it."""

import numpy as np
import pytest
import torch

from sam2unet import structure_loss


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
