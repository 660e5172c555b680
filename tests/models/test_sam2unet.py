"""SAM2-UNet: its side outputs, and the sides of its input."""

import pytest
import torch

import sam2unet
from sam2unet.layers.hiera import check_sides
from sam2unet.models.sam2unet import SAM2UNet


def test_up4_has_weights_but_no_part_in_the_result():
    torch.manual_seed(0)
    model = sam2unet.create_model("sam2unet", encoder="tiny").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model(image)[0]
        for parameter in model.up4.parameters():
            parameter.fill_(torch.nan)
        assert torch.equal(model(image)[0], before)


@pytest.mark.parametrize(
    "height, width, advice",
    [
        (100, 100, "100x100 pixels .* multiples of 32; instead of 100, give 96 or 128$"),
        (64, 90, "64x90 pixels .* instead of 90, give 64 or 96$"),
        (20, 353, "instead of 20, give 32; instead of 353, give 352 or 384$"),
    ],
)
def test_sides_that_do_not_fit_are_named_with_those_that_do(height, width, advice):
    with torch.device("meta"):
        models = (
            sam2unet.create_model("sam2unet", encoder="tiny"),
            sam2unet.create_model("sam2unext", encoder="tiny", dino="small"),
        )
    for model in models:
        with pytest.raises(sam2unet.UserError, match=advice):
            model(torch.zeros(1, 3, height, width, device="meta"))
    for side in (32, 349, 352):  # the patch embedding rounds up to multiples of 4, as the released model does
        check_sides(torch.zeros(1, 3, side, side, device="meta"))


def test_models_are_listed_and_unknown_ones_named():
    assert sam2unet.list_models() == ["sam2unet", "sam2unext", "sam3unet", "sam_med2d"]
    with torch.device("meta"):
        assert isinstance(sam2unet.create_model("sam2unet"), SAM2UNet)
    with pytest.raises(sam2unet.UserError, match="no model named sam4unet; there are sam2unet, sam2unext"):
        sam2unet.create_model("sam4unet")
    with pytest.raises(sam2unet.UserError, match="no encoder named huge"):
        sam2unet.create_model("sam2unet", encoder="huge")


@pytest.mark.parametrize("count", [-1, 0, 1, 256])
def test_a_number_of_classes_that_cannot_be_is_refused(count):
    with pytest.raises(sam2unet.UserError, match=f"^there are {max(count, 0)} classes; wanted 2 to 255, with the"):
        sam2unet.create_model("sam2unet", encoder="micro", classes=count)
