"""scripts/check_data.py: what a data set is and what is wrong with it, all in one go, before training on it."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from sam2unet.commands import check_data
from sam2unet.data.checks import contact_sheet as sheets
from sam2unet.data.checks.audit import audit_folders
from sam2unet.data.checks.check import check_pairs
from sam2unet.data.checks.findings import NEAR, PROBLEM, WARNING
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from tests.conftest import save, write_pairs


def lines_of(text):
    """(level, title) -> text of the report's lines, those of one title joined."""
    lines = {}
    for line in text.split("\n\n")[0].splitlines():
        key = line[:9].strip(), line[9:26].strip()
        lines[key] = lines.get(key, "") + line[26:]
    return lines


def recode(path, high):
    save(path, np.asarray(Image.open(path)) // 255 * high)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-300])


def test_real_pairs_are_fit_to_train_on_and_counted_right(run_main, polyps, shared, tmp_path):
    elsewhere = shared / "data/polypgen_c5/test/images"
    flags = polyps / "images", polyps / "masks", "--other", elsewhere, "--save_path", tmp_path / "out"
    status, out, err = run_main(check_data, *flags)
    assert status == 0, out + err
    shares = [(np.asarray(Image.open(path)) > 128).mean() for path in (polyps / "masks").iterdir()]
    sizes = [Image.open(path).size for path in (polyps / "images").iterdir()]
    often = max(set(sizes), key=sizes.count)
    lines = lines_of(out)
    assert list(lines) == [("", title) for title in ("pairs", "sizes", "foreground", "others", "contact sheet")]
    assert lines["", "pairs"] == "40"
    assert lines["", "sizes"].endswith(f"most often {often[0]}x{often[1]} ({sizes.count(often)})")
    assert lines["", "foreground"].startswith(
        f"mean {np.mean(shares):.3f}, median {np.median(shares):.3f}, min {min(shares):.3f}, max {max(shares):.3f} "
    )
    assert lines["", "others"].startswith("24 ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact_sheet.png"]
    rows = 7 * (sheets.HEIGHT + 2 * sheets.LINE + sheets.GAP)
    assert Image.open(tmp_path / "out/contact_sheet.png").size == (
        1606,
        sheets.GAP + 2 * sheets.LINE + rows,
    )


def test_all_that_is_wrong_is_named_in_one_run(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, masks = write_pairs(tmp_path / "train", 14)
    others, _ = write_pairs(tmp_path / "test", 20)
    for path in sorted(others.iterdir())[:14]:  # write_pairs gives one letter the same noise each time
        path.unlink()
    (masks / "a.png").unlink()
    (images / "b.jpg").unlink()
    shutil.copy(images / "c.jpg", images / "c.JPEG")
    shutil.copy(masks / "c.png", masks / "c.bmp")
    shorten(images / "d.jpg")
    (masks / "e.png").write_bytes(b"hello")
    recode(masks / "f.png", 1)
    recode(masks / "g.png", 128)
    Image.open(masks / "h.png").resize((60, 60)).save(masks / "h.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which leaves the size as it is
    Image.open(images / "i.jpg").save(images / "i.jpg", exif=exif)
    save(masks / "j.png", np.zeros((50, 60), np.uint8))
    save(masks / "k.png", np.full((50, 60), 255, np.uint8))
    save(masks / "l.png", np.linspace(0, 255, 3000).astype(np.uint8).reshape(50, 60))
    Image.open(masks / "m.png").resize((120, 100)).save(masks / "m.png")
    Image.open(images / "n.jpg").save(others / "leak.png")
    (others / "bad.jpg").write_bytes(b"hello")
    flags = "train/images", "train/masks", "--other", "test/images", "--save_path", "out"
    status, out, err = run_main(check_data, *flags)
    assert status == 1, out + err
    wanted = {
        ("", "pairs"): ["12"],
        (PROBLEM, "without mask"): ["1 of 14: a.jpg;"],
        (WARNING, "without image"): ["1 of 14: b.png;"],
        (PROBLEM, "same stem"): ["c.JPEG and c.jpg in train/images", "c.bmp and c.png in train/masks"],
        (PROBLEM, "unreadable"): ["1 images: d.jpg;", "1 masks: e.png;"],
        (PROBLEM, "mask coding"): ["f.png, g.png (", "values found: 0, 1;", "0, 128)", "--mask_threshold N"],
        ("", "sizes"): ["all 60x50"],
        ("", "mask sizes"): ["1 of 12: m.png (120x100, image 60x50)"],
        (PROBLEM, "mask shapes"): ["1 of 12: h.jpg (60x50, mask 60x60)"],
        (WARNING, "EXIF"): ["1 of 13: i.jpg"],
        ("", "foreground"): ["min 0.000, max 1.000"],
        (WARNING, "empty masks"): ["1 of 9: j.png"],
        (WARNING, "full masks"): ["1 of 9: k.png"],
        (WARNING, "soft masks"): ["1 of 9: l.png"],
        (WARNING, "duplicates"): ["1 of 13: c.jpg same as c.JPEG"],
        ("", "others"): ["7 "],
        (WARNING, "unreadable"): ["1 others: bad.jpg"],
        (PROBLEM, "in both sets"): ["1 of 7: n.jpg = leak.png"],
        ("", "contact sheet"): ["out/contact_sheet.png"],
    }
    lines = lines_of(out)
    assert list(lines) == list(wanted)
    assert [(key, words) for key in wanted for words in wanted[key] if words not in lines[key]] == []
    assert out.splitlines()[-1] == "problems 8, warnings 7: do not train on this yet"


BREAKS = {
    "nothing": lambda images, masks: None,
    "no mask": lambda images, masks: (masks / "b.png").unlink(),
    "no image": lambda images, masks: (images / "b.jpg").unlink(),
    "image stem twice": lambda images, masks: shutil.copy(images / "a.jpg", images / "a.png"),
    "mask stem twice": lambda images, masks: shutil.copy(masks / "a.png", masks / "a.bmp"),
    "damaged image": lambda images, masks: shorten(images / "a.jpg"),
    "damaged mask": lambda images, masks: shorten(masks / "a.png"),
    "0/1": lambda images, masks: recode(masks / "a.png", 1),
    "shape": lambda images, masks: Image.new("L", (60, 52), 255).save(masks / "a.png"),
    "nearly that shape": lambda images, masks: Image.new("L", (60, 51), 255).save(masks / "a.png"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_training_refuses_is_a_problem_and_nothing_else_is(name, tmp_path):
    images, masks = write_pairs(tmp_path)
    BREAKS[name](images, masks)
    try:
        check_pairs(match(images, masks))
        refused = False
    except UserError:
        refused = True
    assert (audit_folders(images, masks).count(PROBLEM) > 0) == refused


def test_mask_threshold_is_the_way_out(tmp_path, capsys):
    images, masks = write_pairs(tmp_path)
    for path in masks.iterdir():
        recode(path, 1)
    flags = [str(images), str(masks)]
    with pytest.raises(SystemExit):
        check_data.run(check_data.parser().parse_args(flags))
    assert "4 of 4 not 0/255" in capsys.readouterr().out
    check_data.run(check_data.parser().parse_args([*flags, "--mask_threshold", "0"]))
    assert "problems 0, warnings 0: fit to train on" in capsys.readouterr().out
    (empty,) = (f for f in audit_folders(images, masks, mask_threshold=1).findings if f.level == PROBLEM)
    assert (empty.title, empty.text[:7]) == ("empty masks", "4 of 4:")


def test_soft_masks_are_told_by_how_much_of_them_is_grey(tmp_path):
    images, masks = write_pairs(tmp_path)
    mask = np.asarray(Image.open(masks / "b.png")).copy()
    mask[0, :] = np.linspace(1, 254, 60)  # 2 % of the pixels, as soft outlines have
    save(masks / "b.png", mask)
    found = audit_folders(images, masks)
    (soft,) = (finding for finding in found.findings if finding.title == "soft masks")
    assert (soft.level, soft.text) == ("", "1 of 4: b.png; up to 2.0% of a mask is grey")
    assert found.masks[masks / "b.png"].foreground == (mask > 128).mean()


@pytest.fixture
def sets(polyps, tmp_path):
    """Ten photographs of the one set; of the other ten more, and changed copies of the first."""
    files = sorted((polyps / "images").iterdir())[:20]
    images, others = tmp_path / "images", tmp_path / "others"
    for folder, chosen in ((images, files[:10]), (others, files[10:])):
        folder.mkdir()
        for path in chosen:
            shutil.copy(path, folder)
    shutil.copytree(polyps / "masks", tmp_path / "masks")
    pictures = [read_image(path) for path in files[:5]]
    shutil.copy(files[0], others / "copied.jpg")
    pictures[1].save(others / "lossless.png")
    pictures[2].save(others / "recompressed.jpg", quality=30)
    pictures[3].resize((352, 352)).save(others / "resized.png")
    ImageOps.crop(pictures[4], round(0.02 * pictures[4].height)).save(others / "cropped.jpg")
    return [path.name for path in files], images, tmp_path / "masks", others


def test_copies_in_the_other_set_are_found_and_other_photographs_are_not(sets):
    imagehash = pytest.importorskip("imagehash")
    names, images, masks, others = sets
    found = audit_folders(images, masks, others)
    (exact,) = (finding.text for finding in found.findings if finding.level == PROBLEM)
    assert exact.startswith(f"2 of 15: {names[0]} = copied.jpg, {names[1]} = lossless.png,")
    pairs = [(twin.other.name, twin.image.name) for twin in found.twins]
    assert sorted(pairs) == [
        ("cropped.jpg", names[4]),
        ("recompressed.jpg", names[2]),
        ("resized.png", names[3]),
    ]
    (near,) = (finding for finding in found.findings if finding.title == "near duplicates")
    assert near.level == WARNING and "likely leakage" in near.text
    for twin in found.twins:  # by the library's own subtraction
        pictures = read_image(twin.image), read_image(twin.other)
        across, down = ([hash_(p, 16) for p in pictures] for hash_ in (imagehash.dhash, imagehash.dhash_vertical))
        assert twin.distance == (across[0] - across[1]) + (down[0] - down[1]) <= NEAR
        assert f"{twin.image.name} ~ {twin.other.name} ({twin.distance})" in near.text


def test_without_imagehash_equal_pixels_are_still_found(sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    names, images, masks, others = sets
    found = {finding.title: finding for finding in audit_folders(images, masks, others).findings}
    assert found["in both sets"].text.startswith("2 of 15: ") and found["in both sets"].level == PROBLEM
    assert 'pip install "sam2unet[check]"' in found["near duplicates"].text


@pytest.mark.parametrize(
    "names, message",
    [
        (("images", "none"), "no such folder: .*none"),
        (("none", "masks"), "no such folder: .*none"),
        (("images", "images"), "are the same folder: .*images"),
        (("images", "masks", "images"), "--other .*images is the folder of the images to train on"),
        (("images", "masks", "masks"), "--other .*masks is the folder of the masks"),
    ],
)
def test_folders_that_cannot_be_compared_are_an_error(names, message, tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(UserError, match=message):
        audit_folders(*(tmp_path / name for name in names))


def test_the_sheet_may_not_lie_among_the_inputs(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    status, out, err = run_main(check_data, "images", "masks", "--save_path", "masks/")
    assert (status, out) == (2, "")
    assert err == "error: --save_path masks is a folder of inputs; give another folder\n"


def test_the_contact_sheet_has_odd_pairs_first_then_a_spread_by_size(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for index in range(60):  # flat greys; masks from the largest to the smallest, and an empty one
        save(images / f"{index:02d}.png", np.full((150, 200, 3), 100 + index, np.uint8))
        mask = np.zeros((150, 200), np.uint8)
        mask[:140, 10 : 190 - 3 * index] = 255 * (index != 30)
        save(masks / f"{index:02d}.png", mask)
    picture = np.asarray(sheets.draw_contact_sheet(audit_folders(images, masks), None))
    step, across = (
        sheets.HEIGHT + 2 * sheets.LINE + sheets.GAP,
        sheets.WIDTH + sheets.GAP,
    )
    heading = 2 * sheets.LINE
    tops = [sheets.GAP + heading] + [sheets.GAP + step + 2 * heading + row * step for row in range(8)]
    assert picture.shape[0] == sheets.GAP + 9 * step + 2 * heading  # a row of one, and 48 in eight

    def tile(top, column):
        left = sheets.GAP + column * across
        return picture[top + sheets.HEIGHT - 150 : top + sheets.HEIGHT, left : left + 200]

    assert tile(tops[0], 0)[75, 195].tolist() == [130] * 3  # the empty mask's image, without an outline
    assert (tile(tops[0], 1) == 255).all()
    shown = [tile(top, column)[75, 195, 0] for top in tops[1:] for column in range(6)]
    assert shown[0] == 159 and shown[-1] == 100  # the smallest and the largest
    assert shown == sorted(set(shown), reverse=True)
    last = tile(tops[-1], 5)
    yellow = (last == sheets.OUTLINE).all(-1)
    edge = np.zeros((150, 200), bool)
    edge[:140, 10:190] = True
    edge[1:139, 11:189] = False  # the object is cut off by the picture's border, its outline is not
    assert np.array_equal(yellow, edge)


def test_the_contact_sheet_shows_what_cannot_be_read_and_masks_of_another_coding(tmp_path):
    images, masks = write_pairs(tmp_path)
    shorten(images / "a.jpg")
    (masks / "b.png").write_bytes(b"hello")
    recode(masks / "c.png", 1)
    found = audit_folders(images, masks, None)
    odd = next(tiles for title, tiles, _ in sheets.choose_tiles(found) if title == "odd pairs")
    assert [(tile.image.name, tile.text) for tile in odd] == [
        ("a.jpg", "image cannot be read"),
        ("b.jpg", "mask cannot be read"),
        ("c.jpg", "values found: 0, 1"),
    ]
    outlined = [(np.asarray(sheets.draw_tile(tile, None)) == sheets.OUTLINE).all(-1).any() for tile in odd]
    assert outlined == [False, False, True]
    assert sheets.draw_contact_sheet(found, None).width > 1000
