"""The data of SAM-Med2D: the released framing, the positions of prompts, and batches."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sam2unet.errors import UserError
from sam2unet.prompts.clicks import draw_error_points, draw_first_points, draw_pixels, draw_rounds, find_box, jitter_box
from sam2unet.prompts.dataset import PromptBatches, PromptDraw, PromptFolder
from sam2unet.prompts.framing import Frame, Framing, normalise_square, read_label
from sam2unet.prompts.groups import draw_prompts, read_group
from sam2unet.prompts.lists import make_unique_names, read_prompts, read_test_list, read_train_list, refuse_bad_masks
from tests.conftest import flat, same, save

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def procedures(reference):
    return np.load(reference / "sammed2d_procedures.npz")


# Against the released code


@pytest.mark.parametrize("name", ["amos_0004_75_liver_000", "s0619_32_colon_000"])
def test_prepared_test_items_are_the_released_ones(name, demo, procedures):
    pairs = read_test_list(demo)
    place = make_unique_names([pair.mask for pair in pairs]).index(f"{name}.png")
    found = read_group(pairs, [place], Framing())
    golden = {key: procedures[f"test.{name}.{key}"] for key in ("image_s8", "label_packed", "boxes", "original_size")}
    image = normalise_square(found.square, [found.frame])[0]
    assert np.array_equal(image[:, ::8, ::8], golden["image_s8"])  # of 256 values rounded once: no tolerance
    mean, std = procedures[f"test.{name}.image_mean_std"]
    assert image.double().mean() == pytest.approx(mean, abs=1e-6)
    assert image.double().std(correction=0) == pytest.approx(std, abs=1e-5)
    assert np.array_equal(np.packbits(found.labels[0].numpy().astype(bool)), golden["label_packed"])
    assert np.array_equal(draw_prompts(found.labels[0], place, 1, seed=0).boxes, golden["boxes"])
    assert found.frame[:2] == tuple(golden["original_size"])
    assert found.originals[0].shape == (1, *golden["original_size"])
    assert found.originals[0].sum() == procedures[f"test.{name}.ori_label_sum"]


def test_boxes_of_a_training_image_are_the_released_ones_before_the_noise(demo, procedures):
    item = read_train_list(demo)[0]
    image, frame = Framing().image(item.image)
    assert np.array_equal(
        normalise_square(image[None], [frame])[0, :, ::8, ::8], procedures["train.amos_0006_90.image_s8"]
    )
    assert len(item.masks) == 4
    for mask in item.masks:
        label, _ = Framing().label(mask, frame)
        assert label.sum() == procedures[f"train.amos_0006_90.area.{mask.stem}"]
        assert np.array_equal(find_box(label)[None], procedures[f"train.amos_0006_90.box.{mask.stem}"])


def test_boxes_of_all_test_masks_are_the_released_prompts_and_their_points_are_inside(demo, reference):
    pairs = read_test_list(demo)
    released = read_prompts(reference / "sammed2d_prompts.json", make_unique_names([pair.mask for pair in pairs]))
    for place, prompts in enumerate(released):
        (label,) = read_group(pairs, [place], Framing()).labels
        assert torch.equal(draw_prompts(label, place, 1, seed=0).boxes, prompts.boxes)
        x, y = prompts.points.coords[0, 0].int().tolist()
        assert label[0, y, x] == 1 and prompts.points.labels.tolist() == [[1]]


@pytest.mark.parametrize("case", ["pad", "pad_odd", "resize_one_small", "equal", "large"])
def test_the_way_back_has_the_released_offsets_and_sizes(case, reference):
    golden = np.load(reference / "sammed2d_forward.npz")
    height, width = golden[f"postprocess.{case}.size"].tolist()
    frame = Frame(height, width, 256)
    assert (frame.corner if frame.pads else (-1, -1)) == tuple(golden[f"postprocess.{case}.pad"])
    maps = frame.restore(torch.zeros(1, 1, 64, 64))
    assert maps.shape[2:] == (height, width)
    assert maps[..., ::8, ::8].shape == golden[f"postprocess.{case}.masks_s8"].shape


# Framing


@pytest.mark.parametrize("size", [(50, 41), (50, 90), (64, 64), (63, 64), (200, 131)])
def test_an_image_is_what_opencv_reads_resized_or_padded(size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    save(tmp_path / "a.png", pixels)
    wanted = cv2.imread(str(tmp_path / "a.png")).astype(np.float64)
    wanted = ((wanted - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]).astype(np.float32)
    if max(size) < 64:
        top, left = (64 - size[0]) // 2, (64 - size[1]) // 2
        wanted = np.pad(wanted, ((top, 64 - size[0] - top), (left, 64 - size[1] - left), (0, 0)))
    else:
        wanted = cv2.resize(wanted, (64, 64), interpolation=cv2.INTER_NEAREST)
    image, frame = Framing(64).image(tmp_path / "a.png")
    assert np.array_equal(normalise_square(image[None], [frame])[0], wanted.transpose(2, 0, 1))


def test_mended_forms_are_options(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    save(tmp_path / "a.png", pixels)
    released, _ = Framing(64).image(tmp_path / "a.png")
    assert torch.equal(Framing(64, rgb=True).image(tmp_path / "a.png")[0], released.flip(0))
    smooth = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    found = Framing(64, rgb=True, smooth=True).image(tmp_path / "a.png")[0]
    assert np.array_equal(found.permute(1, 2, 0), smooth)


@pytest.mark.parametrize("size", [(20, 31), (63, 40), (64, 30), (100, 200)])
def test_the_way_back_undoes_the_way_there(size):
    frame = Frame(*size, side=64)
    points = torch.tensor([[3.0, 5.0], [30.0, 19.0]])
    assert torch.allclose(frame.to_original(frame.to_square(points)), points)
    array = np.zeros(size, np.float32)
    array[4:15, 6:25] = 1
    there = frame.place(array)
    x, y = frame.to_square(torch.tensor([15.0, 10.0])).int().tolist()
    assert there[y, x] == 1
    back = frame.restore(torch.from_numpy(there)[None, None])[0, 0].numpy()
    if frame.pads:
        assert np.array_equal(back, array)
    else:
        found, wanted = back > 0.5, array > 0.5
        assert (found & wanted).sum() / (found | wanted).sum() > 0.8  # IoU: most pixels are background


def test_masks_are_0_1_or_0_255_and_soft_edges_background(tmp_path):
    values = np.zeros((8, 10), np.uint8)
    values[2:6, 3:7] = 255
    for high in (1, 255):
        save(tmp_path / "mask.png", values // 255 * high)
        assert np.array_equal(read_label(tmp_path / "mask.png", strict=True), values > 0)
    soft = values.copy()
    soft[1, 3:7] = 200
    save(tmp_path / "mask.png", soft)
    assert np.array_equal(read_label(tmp_path / "mask.png"), values > 0)
    assert np.array_equal(read_label(tmp_path / "mask.png", threshold=128), soft > 0)
    with pytest.raises(UserError, match="4 pixels are between 0 and 255"):
        read_label(tmp_path / "mask.png", strict=True)
    for high, found in ((128, "values found: 0, 128"), (3, "values found: 0, 3")):
        save(tmp_path / "mask.png", values // 255 * high)
        with pytest.raises(UserError, match=found):
            read_label(tmp_path / "mask.png")


# Points and boxes


def test_pixels_are_drawn_evenly_from_the_region_alone():
    region = torch.zeros(2, 6, 7, dtype=torch.bool)
    region[0, 1:4, 2:5] = True
    region[0, 5, 6] = True
    pixels = draw_pixels(region, 10000, seeded())
    found, counts = pixels[0].unique(dim=0, return_counts=True)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, region[0].nonzero().flip(1).tolist()))
    assert counts.min() > 850 and counts.max() < 1150
    _, counts = pixels[1].unique(dim=0, return_counts=True)  # an empty region: anywhere in the image
    assert len(counts) == 42 and counts.min() > 150


@pytest.mark.parametrize("count, inside", [(1, 1), (3, 1), (5, 2), (9, 4)])
def test_first_points_lie_where_their_labels_say(count, inside):
    masks = torch.rand(6, 40, 48, generator=seeded()) > 0.6
    coords, labels = draw_first_points(masks, count, seeded())
    assert coords.dtype == torch.float32 and coords.shape == (6, count, 2) and labels.shape == (6, count)
    assert labels.sum(1).tolist() == [inside] * 6
    x, y = coords.long().unbind(-1)
    assert torch.equal(masks[torch.arange(6)[:, None], y, x].long(), labels)
    if count > 1:
        assert len(labels.unique(dim=0)) > 1  # shuffled


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("value", [False, True])
def test_masks_without_object_or_background_have_points_all_the_same(value, count):
    assert (
        draw_first_points(torch.full((2, 8, 8), value), count, seeded()).labels.tolist() == [[int(value)] * count] * 2
    )


def test_clicks_are_where_the_prediction_is_wrong_with_the_true_label():
    labels, predicted = (torch.rand(2, 4, 1, 32, 40, generator=seeded()) > 0.6).float()
    predicted[0] = 0  # all of the object is missed
    predicted[1] = 1  # all of the background is taken
    coords, found = draw_error_points(predicted * 8 - 4, labels, 200, seeded())
    x, y = coords.long().unbind(-1)
    rows = torch.arange(4)[:, None]
    assert torch.equal(labels[rows, 0, y, x].long(), found)
    assert torch.equal(predicted[rows, 0, y, x].long(), 1 - found)
    assert found[0].all() and not found[1].any() and 0 < found[2].sum() < 200


@pytest.mark.parametrize("side", [40, 300])
def test_where_nothing_is_wrong_points_are_anywhere_and_none(side):
    labels = torch.zeros(3, 1, side, side)
    labels[..., 5:20, 5:9] = 1
    coords, found = draw_error_points(labels * 8 - 4, labels, 500, seeded())
    assert (found == -1).all()
    assert coords.min() >= 0 and 0.9 * side < coords.max() < side


def test_a_box_is_around_the_largest_region_with_exclusive_ends():
    mask = np.zeros((30, 40), bool)
    mask[2:5, 3:9] = True
    mask[10:20, 20:24] = mask[20:24, 24:30] = True  # one region by its corner
    assert find_box(mask).tolist() == [20, 10, 30, 24]
    mask = np.zeros((8, 9), bool)
    mask[1, 0] = mask[0, 2] = True  # equal: the first by rows, which is not the one OpenCV numbers first
    assert find_box(mask).tolist() == [2, 0, 3, 1]
    with pytest.raises(ValueError):
        find_box(np.zeros((8, 9), bool))


@pytest.mark.parametrize("box, most", [((10, 10, 60, 70), 5), ((0, 0, 7, 40), 3), ((4, 4, 5, 30), 0)])
def test_noise_moves_a_whole_box_by_whole_pixels(box, most):
    box, generator = np.array(box, np.float32), seeded()
    shifts = np.array([jitter_box(box, generator) - box for _ in range(2000)])
    assert np.array_equal(shifts[:, :2], shifts[:, 2:])
    for axis in (0, 1):
        assert np.array_equal(np.unique(shifts[:, axis]), np.arange(-most, max(most, 1)))


def test_rounds_are_eight_of_which_the_last_and_one_before_are_bare():
    draws = [draw_rounds(seeded(seed)) for seed in range(400)]
    assert 150 < sum(draw.boxes for draw in draws) < 250
    assert all(len(draw.points) == 8 and draw.points[0] and not draw.points[7] for draw in draws)
    bare = [draw.points[:7].index(0) for draw in draws if draw.points[:7].count(0) == 1]
    assert len(bare) == 400 and set(bare) == {1, 2, 3, 4, 5, 6}
    assert {n for draw in draws for n in draw.points} == {0, 1, 3, 5, 9}


def test_fewer_than_three_rounds_work():
    assert [draw_rounds(seeded(), n, (3,)).points for n in (1, 2, 3)] == [(0,), (3, 0), (3, 0, 0)]


# Batches


def epoch_of(items, workers=0, epoch=1, first=0, seed=0, rank=0, world=1):
    batches = PromptBatches(len(items), 2, seed, rank, world)
    batches.start(epoch, 2 * first)
    data = PromptFolder(items, Framing(64))
    loader = DataLoader(data, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=workers)
    return list(loader)


def test_a_training_batch_holds_masks_of_its_images_with_a_prompt_each(lists):
    for batch in epoch_of(lists):
        images = len(batch.indices)
        given = batch.on(CPU)
        assert given.images.shape == (images, 3, 64, 64) and given.images.dtype == torch.float32
        assert given.labels.shape == (images * 5, 1, 64, 64) and set(given.labels.unique().tolist()) == {0, 1}
        assert given.boxes.shape == (images * 5, 1, 4) and given.boxes.dtype == torch.float32
        assert given.points.coords.shape == (images * 5, 1, 2) and given.points.labels.shape == (images * 5, 1)
        for number in range(images * 5):
            item = lists[batch.indices[number // 5]]
            mask = next(path for path in item.masks if path.name == batch.names[number])
            label, _ = Framing(64).label(mask, batch.frames[number // 5])
            assert np.array_equal(batch.labels[number, 0], label)
            shift = batch.boxes[number, 0].numpy() - find_box(label)
            assert shift[0] == shift[2] and shift[1] == shift[3] and np.abs(shift).max() <= 5
            x, y = batch.points.coords[number, 0].int().tolist()
            assert label[y, x] and batch.points.labels[number] == 1


def test_an_epoch_is_the_same_whatever_the_workers_and_from_any_batch_on(lists):
    alone = epoch_of(lists)
    assert same(tuple(alone), tuple(epoch_of(lists, workers=2)))
    assert same(tuple(alone[1:]), tuple(epoch_of(lists, first=1)))
    data = PromptFolder(lists, Framing(64))
    draw = PromptDraw(index=0, seed=0, epoch=1, batch=0)
    first, *others = (data.__getitems__([draw._replace(**new)]) for new in ({}, {"epoch": 2}, {"seed": 1}))
    assert all(not torch.equal(first.points.coords, other.points.coords) for other in others)
    item = data[0]
    assert torch.equal(item.image, first.images[0]) and item.names == first.names
    assert np.array_equal(item.labels, first.labels[:, 0]) and torch.equal(item.points.coords, first.points.coords)


def test_a_step_draws_anew_in_each_batch_and_again_when_resumed(lists):
    def draws(batches):
        return [(draw_rounds(given.shared), given.local.get_state()) for given in (b.on(CPU) for b in batches)]

    first, again = draws(epoch_of(lists)), draws(epoch_of(lists, first=1))
    assert same(first[1], again[0])
    assert first[0][0] != first[1][0]
    one, two = (draws(epoch_of(lists, rank=rank, world=2))[0] for rank in (0, 1))
    assert one[0] == two[0] and not torch.equal(one[1], two[1])  # processes share rounds, not clicks


# Refusals


BAD = {
    "of another size": (np.full((40, 41), 255, np.uint8), r"has another size than its image: 41x40, the image 41x50"),
    "empty": (np.zeros((50, 41), np.uint8), "is empty"),
    "half bright": (np.eye(50, 41, dtype=np.uint8) * 128, "values found: 0, 128"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mask_that_cannot_be_used_is_named_before_and_during_a_run_or_left_out(kind, lists):
    array, words = BAD[kind]
    bad = lists[0].masks[1]
    save(bad, array)
    with pytest.raises(UserError, match=rf"1 of 9 masks cannot be used: i0_1.png; first: .*{words}"):
        refuse_bad_masks(flat(lists), Framing(64))
    draws = [draw for batch in PromptBatches(3, 3, seed=0) for draw in batch]
    with pytest.raises(UserError, match=rf"i0_1.png {words}|i0_1.png is not.*{words}"):
        PromptFolder(lists, Framing(64), mask_num=20).__getitems__(draws)
    batch = PromptFolder(lists, Framing(64), mask_num=20, skip_bad=True).__getitems__(draws)
    assert len(batch.names) == 60 and bad.name not in batch.names
    assert len(batch.skipped) == 1 and str(bad) in batch.skipped[0]


def test_an_image_without_a_usable_mask_is_left_out_and_a_batch_of_those_stops(lists):
    for path in lists[0].masks:
        save(path, np.zeros((50, 41), np.uint8))
    draws = [draw for batch in PromptBatches(3, 3, seed=0) for draw in batch]
    data = PromptFolder(lists, Framing(64), skip_bad=True)
    assert sorted(data.__getitems__(draws).indices.tolist()) == [1, 2]
    with pytest.raises(UserError, match="no image of a batch could be used: i0.png"):
        data.__getitems__([draw for draw in draws if draw.index == 0])


def test_a_mask_lost_in_resizing_is_refused_by_name(lists):
    thin = np.zeros((128, 100), np.uint8)
    thin[3] = 255  # S = 64 takes every other row
    save(lists[2].masks[0], thin)
    with pytest.raises(UserError, match="i2_0.png has nothing left at 64x64"):
        read_group(flat(lists), [6], Framing(64))
    refuse_bad_masks(flat(lists), Framing(128))
