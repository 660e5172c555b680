"""What reaches the network: which files belong together, how masks are read, the released pre-processing."""

import numpy as np
import pytest
import torch
from conftest import save, write_pairs
from PIL import Image
from torchvision import transforms

from sam2unet import UserError, load_pair
from sam2unet.data.check import check_pairs
from sam2unet.data.masks import MaskFolder, ShuffledFlips
from sam2unet.data.pairs import match
from sam2unet.data.reading import read_image, read_mask


@pytest.mark.parametrize("folder", ["polypgen_c1/test", "tile_defects/test", "nuclei/test", "horses/test"])
def test_load_pair_is_what_torchvision_makes_of_the_files(folder, shared):
    images, masks = shared / "data" / folder / "images", shared / "data" / folder / "masks"
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    as_image = transforms.Compose([transforms.Resize((352, 352)), transforms.ToTensor(), normalise])
    resize = transforms.Resize((352, 352), interpolation=transforms.InterpolationMode.BICUBIC)
    as_mask = transforms.Compose([resize, transforms.ToTensor()])
    for path in sorted(images.iterdir())[::5]:
        mask_path = masks / f"{path.stem}.png"
        image, mask = load_pair(path, mask_path, 352)
        assert torch.equal(image, as_image(Image.open(path).convert("RGB")))
        assert torch.equal(mask, as_mask(Image.open(mask_path).convert("L")))


def test_masks_stay_soft_at_edges(polyps):
    _, mask = load_pair(*next(iter(match(polyps / "images", polyps / "masks"))), 64)
    assert ((mask > 0.1) & (mask < 0.9)).any() and mask.min() == 0 and mask.max() == 1


def binary(high, dtype=np.uint8):
    values = np.zeros((8, 10), dtype)
    values[2:6, 3:7] = high
    return values


MASKS = {
    "8-bit grey": Image.fromarray(binary(255)),
    "RGB grey": Image.fromarray(binary(255)).convert("RGB"),
    "RGBA grey": Image.fromarray(binary(255)).convert("RGBA"),
    "1 bit": Image.fromarray(binary(255)).convert("1"),
    "palette": Image.fromarray(binary(255)).convert("RGB").quantize(2),
    "16 bit": Image.fromarray(binary(65535, np.uint16)),
    "16 bit, values of 8": Image.fromarray(binary(255, np.uint16)),
}


@pytest.mark.parametrize("coding", MASKS)
def test_every_way_to_write_a_mask_reads_the_same(coding, tmp_path):
    MASKS[coding].save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), binary(255))


@pytest.mark.parametrize("high, found", [(1, "0, 1"), (128, "0, 128"), (38, "0, 38"), (200, "0, 200")])
def test_other_codings_are_refused_by_their_values_and_read_with_a_threshold(high, found, tmp_path):
    save(tmp_path / "mask.png", binary(high))
    with pytest.raises(UserError, match=rf"values found: {found}\).*--mask_threshold N"):
        read_mask(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", threshold=0), binary(255))


def test_class_labels_and_colours_are_refused(tmp_path):
    save(tmp_path / "labels.png", np.arange(80, dtype=np.uint8).reshape(8, 10) % 4)
    with pytest.raises(UserError, match="values found: 0, 1, 2, 3"):
        read_mask(tmp_path / "labels.png")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "labels.png", threshold=2)).ravel()[:4], [0, 0, 0, 255])
    save(tmp_path / "red.png", np.stack([binary(255), binary(0), binary(0)], axis=-1))
    with pytest.raises(UserError, match="it has colours"):
        read_mask(tmp_path / "red.png")


@pytest.mark.parametrize("values", [binary(0), np.full((8, 10), 255, np.uint8), binary(255) // 2 + binary(129)])
def test_empty_full_and_soft_masks_are_masks(values, tmp_path):
    soft = values.astype(np.uint8)
    save(tmp_path / "mask.png", soft)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), soft)


def test_a_grey_image_of_16_bits_keeps_its_contrast(tmp_path):
    ramp = np.linspace(0, 65535, 80).astype(np.uint16).reshape(8, 10)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "deep.png"))[..., 0], np.rint(ramp / 257))


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "PNG", "bmp", "tif", "TIFF", "webp"])
def test_pairs_match_by_stem_whatever_the_extension(extension, tmp_path):
    images, masks = write_pairs(tmp_path)
    mask = Image.open(masks / "c.png").copy()
    (masks / "c.png").unlink()
    mask.save(masks / f"c.{extension}")
    (images / "notes.txt").write_text("not an image")
    assert [(pair.image.stem, pair.mask.stem) for pair in match(images, masks)] == [(s, s) for s in "abcd"]


def test_spare_masks_are_left_out_with_a_warning(tmp_path, capsys):
    images, masks = write_pairs(tmp_path)
    (images / "b.jpg").unlink()
    assert [pair.image.stem for pair in match(images, masks)] == ["a", "c", "d"]
    assert capsys.readouterr().err.startswith("warning: 1 masks in ")


def test_exif_orientation_turns_the_image_and_warns(tmp_path, capsys):
    images, masks = write_pairs(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(images / "a.jpg")
    upright.transpose(Image.Transpose.ROTATE_90).save(images / "a.png", exif=exif)
    (images / "a.jpg").unlink()
    assert np.array_equal(read_image(images / "a.png"), upright)
    check_pairs(match(images, masks))  # the mask has the turned image's shape
    assert "1 images are turned as their EXIF orientation says" in capsys.readouterr().err


def test_a_mask_of_another_size_is_fine_at_the_same_aspect_ratio(tmp_path):
    images, masks = write_pairs(tmp_path)
    Image.open(masks / "a.png").resize((120, 101)).save(masks / "a.png")
    check_pairs(match(images, masks))
    Image.open(masks / "b.png").resize((60, 54)).save(masks / "b.png")
    with pytest.raises(UserError, match=r"1 masks have another aspect ratio.*b.jpg \(60x50, mask 60x54\)"):
        check_pairs(match(images, masks))


def test_flips_move_image_and_mask_together(polyps):
    folder = MaskFolder(match(polyps / "images", polyps / "masks"), 64)
    image, mask = folder[3, False, False]
    for mirror, tip, axes in [(True, False, [-1]), (False, True, [-2]), (True, True, [-1, -2])]:
        flipped_image, flipped_mask = folder[3, mirror, tip]
        assert torch.equal(flipped_image, image.flip(axes)) and torch.equal(flipped_mask, mask.flip(axes))


def test_an_epoch_takes_every_pair_once_in_new_order_with_even_flips():
    sampler = ShuffledFlips(1000, seed=0)
    first, second = list(sampler), list(sampler)
    for epoch in (first, second):
        assert sorted(index for index, _, _ in epoch) == list(range(1000))
        assert 420 < sum(mirror for _, mirror, _ in epoch) < 580 and 420 < sum(tip for _, _, tip in epoch) < 580
    assert first != second and first == list(ShuffledFlips(1000, seed=0))
