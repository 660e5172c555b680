"""scripts/check_data.py with --classes: it finds the classes in masks, writes their file, and checks masks with it."""

import re

import numpy as np
import pytest
from PIL import Image

from sam2unet.classes import Classes
from sam2unet.commands import check_data
from sam2unet.data.checks import contact_sheet as sheets
from sam2unet.data.checks.audit import audit_folders, find_classes
from sam2unet.data.checks.findings import PROBLEM, WARNING
from tests.conftest import save, write_class_pairs, write_pairs

INDICES = np.tile(np.repeat(np.array([0, 1, 2, 3], np.uint8), [20, 20, 15, 5]), (50, 1))  # 50 x 60 pixels
COLORS = np.array([[0, 0, 0], [220, 20, 60], [0, 90, 200], [255, 255, 255]], np.uint8)
GREY, DEEP = np.array([0, 7, 9, 255], np.uint8), np.array([0, 300, 60000, 255], np.uint16)


def palette_mask(indices, colors):
    image = Image.fromarray(indices)
    image.putpalette(np.pad(colors, ((0, 256 - len(colors)), (0, 0))).tobytes())
    return image


FORMATS = {  # name -> mask, codes of the classes in ascending order, colours, ignored codes
    "grey": (Image.fromarray(GREY[INDICES]), [0, 7, 9], None, (255,)),
    "16-bit": (Image.fromarray(DEEP[INDICES]), [0, 300, 60000], None, (255,)),
    "palette": (palette_mask(INDICES, COLORS), [0, 1, 2, 3], COLORS, ()),
    "RGB": (Image.fromarray(COLORS[INDICES]), [0, 90 << 8 | 200, 220 << 16 | 20 << 8 | 60, 0xFFFFFF], None, ()),
    "0/255": (Image.fromarray(np.uint8(255) * (INDICES > 1)), [0, 255], None, ()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_found_classes_become_a_file_that_fits_all_masks(name, run_main, tmp_path):
    mask, codes, colors, ignore = FORMATS[name]
    images, masks = write_pairs(tmp_path, 3)
    mask.save(masks / "a.png")
    mask.save(masks / "b.png")
    mask.resize((60, 50), Image.Resampling.NEAREST, (0, 0, 20, 50)).save(masks / "c.png")  # the background alone
    file = tmp_path / "classes.yaml"
    status, out, err = run_main(check_data, images, masks, "--classes", "auto", "--write_classes", file)
    assert (status, err) == (0, "") and f"classes file     {file}" in out
    classes = Classes.read(file)
    assert (classes.codes, classes.ignore) == (codes, ignore) and classes.names[0] == "background"
    if colors is not None:
        assert np.array_equal(classes.palette[:4], colors)
    assert classes == find_classes(masks)
    audit = audit_folders(images, masks, mask_threshold=classes)
    assert audit.count(PROBLEM) == audit.count(WARNING) == 0
    status, again, _ = run_main(check_data, images, masks, "--classes", file)
    assert status == 0 and re.findall(" class .*", again) == re.findall(" class .*", out)
    assert len(re.findall(" class .*", out)) == len(codes + [*ignore])


def test_the_file_names_shares_and_images(run_main, tmp_path):
    images, masks, _ = write_class_pairs(tmp_path)
    file = tmp_path / "found.yaml"
    assert run_main(check_data, images, masks, "--classes", "auto", "--write_classes", file)[0] == 0
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(masks.iterdir())])
    lines = file.read_text().splitlines()
    assert lines[0] == f"classes:  # in {masks}; change the names; the first class is the background"
    for line, value in zip(lines[1:], (0, 1, 2, 255), strict=True):
        count = (pixels == value).any((1, 2)).sum()
        assert line.endswith(f"  # {(pixels == value).mean():.3%} of the pixels, in {count} of 4 masks")
    assert lines[2].startswith("  - {name: class 1, value: 1, color: [") and lines[4].startswith("ignore: 255  #")


def test_camvid_from_masks_to_a_file_to_a_check(run_main, shared, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((shared / f"data/camvid/test/{kind}").iterdir())[::5]:
            (tmp_path / kind / path.name).symlink_to(path)
    folders, file = (tmp_path / "images", tmp_path / "masks"), tmp_path / "classes.yaml"
    status, out, _ = run_main(check_data, *folders, "--classes", "auto", "--write_classes", file)
    assert status == 0 and out.splitlines()[-1] == "problems 0, warnings 0: fit to train on"
    assert Classes.read(file).codes == list(range(12))
    file.write_text("".join(line for line in file.open() if "value: 11" not in line))
    status, out, _ = run_main(check_data, *folders, "--classes", file)
    assert status == 1
    assert re.search(
        r"problem  mask values      8 of 8 have values of no class: 11 \([\d,]+ pixels in 8 files: \S+, \S+, \S+ and 5 "
        r"more\); add the line `- {name: ..., value: 11}` to the classes, or `ignore: 11`",
        out,
    )


def noise(top, mode=np.uint8):
    return np.random.default_rng(0).integers(0, top, (50, 60), endpoint=True).astype(mode)


BAD = {
    "soft": (np.stack([noise(255)] * 3, -1) + np.uint8([9, 0, 200]), "have more than 255 colours, so they are not"),
    "deep": (noise(900, np.uint16), "have more than 255 values, so they are not masks of classes"),
    "one value": (noise(0), "have only one value, so they are not masks of classes"),
    "fraction": (noise(3, np.float32) / 2, "have the value 0.5; wanted whole numbers from 0 to 65535"),
    "negative": (noise(3, np.int32) - 1, "have the value -1; wanted whole numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_without_classes_are_one_line(name, run_main, tmp_path):
    images, masks = write_pairs(tmp_path, 1)
    (masks / "a.png").unlink()
    save(masks / "a.tif", BAD[name][0])
    status, out, err = run_main(check_data, images, masks, "--classes", "auto")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: the masks in {masks} {BAD[name][1]}")


def test_jpeg_masks_with_few_values_are_a_warning(tmp_path, capsys):
    folder = write_class_pairs(tmp_path)[1]
    save(folder / "a.jpg", np.uint8(80) * (INDICES > 0))
    find_classes(folder)
    assert capsys.readouterr().err.startswith("warning: 1 of 5 masks are JPEG, which changes values: a.jpg; ")


def test_flags_that_do_not_go_together_and_existing_files_are_refused(run_main, tmp_path):
    images, masks, file = write_class_pairs(tmp_path)
    before = file.read_bytes()
    for flags, words in (
        (("--classes", "auto", "--write_classes", file), "classes.yaml exists and is not overwritten"),
        (("--classes", file, "--write_classes", tmp_path / "b.yaml"), "that --classes auto finds; give both"),
        (("--write_classes", tmp_path / "b.yaml"), "that --classes auto finds; give both"),
        (("--classes", file, "--mask_threshold", 0), "both say what mask values mean; give one"),
        (("--classes", tmp_path / "c.yaml"), "no such file: "),
        (("--classes", "auto", "--write_classes", tmp_path / "no/c.yaml"), "no such folder: "),
    ):
        status, out, err = run_main(check_data, images, masks, *flags)
        assert (status, out, err.count("\n")) == (2, "", 1) and words in err
    assert file.read_bytes() == before and not (tmp_path / "b.yaml").exists()


def test_what_is_wrong_with_masks_of_classes_is_named(tmp_path):
    images, masks, file = write_class_pairs(tmp_path)
    save(masks / "a.png", np.full((50, 60), 255, np.uint8))
    save(masks / "b.png", np.full((50, 60), 7, np.uint8))
    save(masks / "c.png", np.full((50, 60, 3), [255, 0, 0], np.uint8))
    save(masks / "d.png", np.ones((50, 60), np.uint8))
    audit = audit_folders(images, masks, mask_threshold=Classes.read(file))
    lines = {(finding.level, finding.title): finding.text for finding in audit.findings}
    assert lines[PROBLEM, "unreadable"].endswith("it has colours; for colours, give the classes a color and no value")
    assert lines[PROBLEM, "mask values"].startswith(
        "1 of 4 have values of no class: 7 (3,000 pixels in 1 files: b.png)"
    )
    assert lines[WARNING, "ignored masks"] == "1 of 2: a.png"
    assert lines[PROBLEM, "absent classes"] == "2 of 3: background, right; in no mask; nothing to learn"
    odd = next(tiles for title, tiles, _ in sheets.choose_tiles(audit, Classes.read(file)) if title == "odd pairs")
    assert [tile.text for tile in odd] == ["only ignored pixels", "no class: 7", "mask cannot be read"]


def test_the_contact_sheet_has_a_legend_and_classes_in_colour(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    save(images / "a.png", np.full((192, 240, 3), 100, np.uint8))
    mask = np.zeros((192, 240), np.uint8)
    mask[:, 60:] = 1
    mask[:, 120:] = 2
    mask[:, 180:] = 255
    save(masks / "a.png", mask)
    classes = Classes.read(write_class_pairs(tmp_path / "other")[2])
    audit = audit_folders(images, masks, mask_threshold=classes)
    sheet = np.asarray(sheets.draw_contact_sheet(audit, classes))
    plain = np.asarray(sheets.draw_contact_sheet(audit_folders(images, masks, mask_threshold=0), 0))
    legend = sheet[: len(sheet) - len(plain)]
    assert len(legend) > 10 and all((legend == item.color).all(-1).sum() > 100 for item in classes.items[1:])
    top = len(legend) + sheets.GAP + 2 * sheets.LINE
    tile = sheet[top : top + 192, sheets.GAP : sheets.GAP + 240]
    assert [tile[96, x].tolist() for x in (30, 90, 150, 210)] == [
        [100, 100, 100],
        [160, 60, 80],
        [50, 95, 150],
        [100, 100, 100],
    ]
