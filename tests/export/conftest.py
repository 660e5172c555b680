"""A network that is exported in a second, for what does not depend on the network."""

import pytest
from torch import nn

from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, TRUNK, Family
from sam2unet.weights.formats import save_state


class Convolution(nn.Module):
    """A network that torch.onnx exports in a second. It takes half a minute for the smallest SAM2-UNet."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, kernel_size=5, padding=2)

    def forward(self, image):
        return (self.convolution(image),)


@pytest.fixture(scope="module")
def convolution(fill, tmp_path_factory):
    """A checkpoint of `Convolution` with generated weights; the table has a row for it."""
    row = Family(
        title="Convolution",
        paper=("An invented paper", "0000.00000"),
        task="masks",
        weight_flags=(TRUNK,),
        options=("encoder",),
        build=lambda shape, weight_paths: (Convolution(), {}),
        find_shape=lambda state: NetworkShape("micro"),
        marker="convolution.weight",
        parts=lambda model: {"decoder": [*model.parameters()]},
        logits=lambda model, images: model(images)[0],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "convolution", row)
        path = tmp_path_factory.mktemp("weights") / "Convolution-20.pth"
        save_state(fill.fill_state_dict(Convolution().state_dict(), 0), path)
        yield path
