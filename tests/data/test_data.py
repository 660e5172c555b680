"""What reaches the network: which files belong together, how masks are read, the released pre-processing."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from sam2unet import load_pair
from sam2unet.data.batches import JITTER, Batches, Draw
from sam2unet.data.checks.check import check_pairs
from sam2unet.data.images.masks import read_mask
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.masks.augment import jitter_pair
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.transforms import mask_bytes
from tests.conftest import save, write_pairs


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


def test_a_portrait_is_resized_along_its_width_first():
    """As by Pillow 10 to 12; golden values of 10.4. The other order, Pillow 13's, makes the second row 248, 101."""
    y, x = np.mgrid[:90, :40]
    slope = Image.fromarray(np.where(y - 45 + 2 * (x - 20) < 7, 255, 0).astype(np.uint8))
    rows = mask_bytes(slope, 8)[0, 2:6].tolist()
    assert rows == [
        [255, 255, 255, 255, 255, 254, 124, 0],
        [255, 255, 255, 255, 248, 102, 0, 0],
        [255, 255, 255, 239, 80, 0, 0, 0],
        [255, 255, 226, 59, 0, 0, 0, 0],
    ]


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
    assert "1 images are rotated by their EXIF orientation" in capsys.readouterr().err


def test_a_mask_of_another_size_is_fine_at_the_same_aspect_ratio(tmp_path):
    images, masks = write_pairs(tmp_path)
    Image.open(masks / "a.png").resize((120, 101)).save(masks / "a.png")
    check_pairs(match(images, masks))
    Image.open(masks / "b.png").resize((60, 54)).save(masks / "b.png")
    with pytest.raises(UserError, match=r"1 masks have another aspect ratio.*b.jpg \(60x50, mask 60x54\)"):
        check_pairs(match(images, masks))


def test_a_batch_is_flipped_and_normalised_as_its_draws_say(polyps):
    pairs = match(polyps / "images", polyps / "masks")
    draws = [Draw(index, mirror, tip) for index, (mirror, tip) in enumerate(itertools.product((False, True), repeat=2))]
    data = MaskFolder(pairs, 64)
    batch = data.__getitems__(draws)
    assert all(torch.equal(part, batch[which][2]) for which, part in enumerate(data[2]))
    with pytest.raises(IndexError):
        data[len(data)]
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    images, masks = batch.on(torch.device("cpu"))
    for draw, image, mask in zip(draws, images, masks, strict=True):
        axes = [axis for axis, flips in ((-1, draw.mirror), (-2, draw.tip)) if flips]
        for found, wanted in zip((image, mask), load_pair(*pairs[draw.index], 64), strict=True):
            assert torch.equal(found, wanted.flip(axes))


def test_an_epoch_takes_every_pair_once_in_new_order_with_even_flips():
    batches = Batches(1000, 12, seed=0)
    first = [draw for batch in batches for draw in batch]
    assert sorted(draw.index for draw in first) == list(range(1000))
    assert 400 < sum(draw.mirror for draw in first) < 600 and 400 < sum(draw.tip for draw in first) < 600
    batches.start(epoch=2)
    second = [draw for batch in batches for draw in batch]
    assert first != second and first == [draw for batch in Batches(1000, 12, seed=0) for draw in batch]
    batches.start(epoch=2, seen=960)
    assert [draw for batch in batches for draw in batch] == second[960:]


def test_an_augmented_mask_stays_on_its_object_and_classes_stay_classes():
    """The object is white on black, so that its mask can be read from the image."""
    masks = torch.zeros(8, 1, 64, 64, dtype=torch.uint8)
    masks[:, :, 20:44, 12:30] = 255
    (draws,) = Batches(8, 8, seed=0, augment=True)
    jitter = torch.tensor([draw.jitter for draw in draws])
    moved, found = jitter_pair(masks.expand(-1, 3, -1, -1), masks, jitter)
    assert ((moved.mean(1) - found[:, 0]).abs() < 130).all() and (found - masks).abs().mean() > 10
    assert len({round(image.mean().item(), 3) for image in moved}) == 8
    _, indices = jitter_pair(masks.expand(-1, 3, -1, -1), masks // 51, jitter, has_classes=True)
    assert indices.dtype == torch.uint8 and set(indices.unique().tolist()) == {0, 5}
    still, same = jitter_pair(masks.expand(-1, 3, -1, -1), masks, torch.zeros(8, JITTER))
    torch.testing.assert_close(still[:, :1], same, rtol=0, atol=0.01)
    assert same.sum() > masks.sum()  # enlarged by 1 / 0.9


def test_repeated_passes_are_one_epoch_and_their_numbers_differ():
    batches = Batches(5, 4, seed=0, repeat=4, augment=True)
    draws = [draw for batch in batches for draw in batch]
    assert (batches.count, batches.total) == (5, 20) and len(set(draws)) == 20
    assert all(sorted(draw.index for draw in draws[at : at + 5]) == list(range(5)) for at in range(0, 20, 5))
    batches.start(epoch=1, seen=12)
    assert [draw for batch in batches for draw in batch] == draws[12:]
    plain = Batches(5, 4, seed=0)
    assert [draw[:3] for batch in Batches(5, 4, seed=0, augment=True) for draw in batch] == [
        draw[:3] for batch in plain for draw in batch
    ]
