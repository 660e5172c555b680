"""Five steps on real images: the released way of training against ours and each option that must not change the result.

In float64, where an agreement to 1e-9 is visible; in float32 rounding alone grows to 1e-2 in the loss by then.
"""

import functools

import pytest
import torch

import sam2unet
from benchmarks import released
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import match
from sam2unet.families.table import find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer

SIZE = 64
OPTIONS = {
    "none": {},
    "channels_last": {"channels_last": True},
    "fused": {"fused": True},
    "grad_checkpointing": {"grad_checkpointing": True},
    "compile": {"compile": True},
    "traced": {"compile": True},  # what is compiled, run by PyTorch as it is
    "all": {"channels_last": True, "fused": True, "grad_checkpointing": True},
}


@pytest.fixture(scope="module")
def pairs(polyps):
    return match(polyps / "images", polyps / "masks")[:10]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def new_model(fill):
    model = sam2unet.create_model("sam2unet", encoder="micro").double().train()
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    return model


@pytest.fixture(scope="module")
def expected(pairs, fill):
    """Losses and weights of five steps of the released way, batches of two."""
    torch.set_default_dtype(torch.float64)
    model, folder, batches = new_model(fill), released.ReleasedMaskFolder(pairs, Recipe(size=SIZE)), []
    for draws in Batches(len(pairs), 2, seed=3):
        batches.append([torch.stack(parts).double() for parts in zip(*(folder[draw] for draw in draws), strict=True)])
    updates = released.take_updates(model, released.released_mask_step, Recipe(), torch.device("cpu"), batches)
    return [loss.item() for loss in updates], model.state_dict()


SLOW = [pytest.mark.slow]  # compiling takes minutes


@pytest.mark.parametrize("option", [pytest.param(name, marks=SLOW * (name == "compile")) for name in OPTIONS])
def test_five_steps_equal_the_released_way(option, pairs, fill, expected, tmp_path, monkeypatch):
    if option == "traced":
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model = new_model(fill)
    cache = open_cache("disk" if option == "all" else "off", pairs, SIZE, None, tmp_path)
    folder = MaskFolder(pairs, SIZE, cache=cache)
    trainer = Trainer(
        find_family("sam2unet"), mask_step, model, Recipe(), Speed(**OPTIONS[option]), torch.device("cpu"), Processes()
    )
    losses = []
    for draws in Batches(len(pairs), 2, seed=3):
        batch = folder.__getitems__(draws).on(torch.device("cpu"))
        losses += [found["total"].item() for (found,) in trainer.update([batch], [1.0])]
    wanted, weights = expected
    assert losses == pytest.approx(wanted, rel=1e-9)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9, msg=name)
