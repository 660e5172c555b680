"""A network that is exported in a second, for what does not depend on the network."""

from pathlib import Path

import pytest
from torch import nn

from sam2unet.families.build import add_class_count
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, TRUNK, Family
from sam2unet.weights.formats import save_state


class Convolution(nn.Module):
    """A network that torch.onnx exports in a second. It takes half a minute for the smallest SAM2-UNet."""

    def __init__(self, classes: int | None):
        super().__init__()
        self.head = nn.Conv2d(3, classes or 1, kernel_size=5, padding=2)

    def forward(self, image):
        return (self.head(image),)


ROW = Family(
    title="Convolution",
    paper=("An invented paper", "0000.00000"),
    task="masks",
    weight_flags=(TRUNK,),
    options=("encoder", "class_count"),
    build=lambda shape, weight_paths: (Convolution(shape.class_count), {}),
    find_shape=lambda state: add_class_count(state, NetworkShape("micro")),
    marker="head.weight",
    parts=lambda model: {"decoder": [*model.parameters()]},
    logits=lambda model, images: model(images)[0],
    heads=("head",),
)


@pytest.fixture(scope="module")
def convolution(fill, tmp_path_factory):
    """A function that writes a checkpoint of `Convolution` with generated weights. The table has a row for it."""

    def write(classes: int | None = None) -> Path:
        path = tmp_path_factory.mktemp("convolution") / "Convolution-20.pth"
        save_state(fill.fill_state_dict(Convolution(classes).state_dict(), 0), path)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "convolution", ROW)
        yield write
