"""The files of the page for prompts: saved label maps and masks, and label maps that are continued."""

import csv
import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sam2unet
from sam2unet.demo.prompts.bundle import write_label_map, write_masks
from sam2unet.demo.prompts.label_map import make_label_map
from sam2unet.demo.prompts.panel import object_list_html
from sam2unet.demo.prompts.session import PromptSession, make_mask_prompt
from sam2unet.demo.prompts.state import State
from sam2unet.errors import UserError
from sam2unet.prompts.framing import Framing
from tests.conftest import save
from tests.demo.prompt_server import SIDE, photo

FRAMING = Framing(SIDE)


def test_where_objects_overlap_the_lower_number_stands(session, dropped):
    session.add_images([dropped])
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    first, second = (each.mask.decompress() for each in session.state.objects)
    assert (first & second).any() and (second & ~first).any()
    labels = make_label_map(session.state.objects)
    assert labels.dtype == np.uint8 and labels.shape == (70, 90)
    assert np.array_equal(labels, np.where(first, 1, np.where(second, 2, 0)))
    session.select(1)  # drawn on top on the page; the file is the same
    session.click(41, 30, 1)
    first = session.state.objects[0].mask.decompress()
    assert np.array_equal(make_label_map(session.state.objects), np.where(first, 1, np.where(second, 2, 0)))


def test_the_label_map_has_16_bits_where_8_are_too_few(session, dropped):
    session.add_images([dropped])
    session.click(40, 30, 1)
    (one,) = session.state.objects
    many = tuple(replace(one, number=number) for number in (255, 256))
    session.add_step(State(many[:1]))
    assert np.asarray(Image.open(write_label_map(session))).max() == 255
    session.add_step(State(many[1:]))
    labels = np.asarray(Image.open(write_label_map(session)))
    assert set(np.unique(labels)) == {0, 256} and np.array_equal(labels > 0, one.mask.decompress())


def test_files_hold_the_masks_whole(session, dropped):
    session.add_images([dropped])
    with pytest.raises(UserError, match="nothing to save yet"):
        write_masks(session)
    session.name_class(" polyp\n<b> ")
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    session.name_class("")
    path = write_masks(session)
    assert path.name == "one_masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.png", "object_1.png", "object_2.png", "objects.csv"]
        labels, *masks = (np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()[:3])
        table = list(csv.DictReader(io.StringIO(archive.read("objects.csv").decode())))
    assert np.array_equal(labels, make_label_map(session.state.objects))
    for mask, each, row in zip(masks, session.state.objects, table, strict=True):
        assert np.array_equal(mask, np.where(each.mask.decompress(), 255, 0))
        assert int(row["area"]) == (mask > 0).sum() and float(row["expected_iou"]) == pytest.approx(
            each.quality, abs=1e-4
        )
    assert [row["class"] for row in table] == ["polyp\\n<b>", ""]
    assert "polyp\\n&lt;b&gt;" in object_list_html(session) and "<b>object 2</b>" in object_list_html(session)
    session.add_images([photo(dropped.with_name("two.png"), (50, 60))])
    with zipfile.ZipFile(write_masks(session)) as archive:
        assert archive.namelist()[0] == "one/labels.png" and len(archive.namelist()) == 4
    with pytest.raises(UserError, match="nothing to save yet"):
        write_label_map(session)
    session.click(20, 30, 1)
    assert write_label_map(session).exists() and not path.exists()
    session.close()
    assert not session.folder.exists()


def test_a_saved_label_map_is_continued(session, dropped, model):
    session.add_images([dropped])
    session.click(40, 30, 1)
    session.name_class("polyp")
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    saved = shutil.copy(write_label_map(session), dropped.with_name("one_labels.png"))
    labels = np.asarray(Image.open(saved))
    again = PromptSession(session.bench)
    again.add_images([dropped])
    assert again.load_label_map(saved) == 2
    one, two = again.state.objects
    assert (one.number, one.class_name, two.number, two.class_name) == (
        1,
        "polyp",
        2,
        "polyp",
    ) and again.selected is None
    assert np.array_equal(one.mask.decompress(), labels == 1) and np.array_equal(two.mask.decompress(), labels == 2)
    assert "The mask is from a label map." in object_list_html(again) and write_masks(again).exists()
    again.select(1)
    again.click(5, 60, 0)
    prompter = sam2unet.Prompter(model, FRAMING).set_image(dropped)
    answer = prompter.predict([[5, 60]], [0], mask=make_mask_prompt(labels == 1, prompter))
    assert np.array_equal(again.state.objects[0].mask.decompress(), answer.masks[0])
    again.undo()
    assert again.load_label_map(saved) == 2 and [item.number for item in again.state.objects] == [1, 2, 3, 4]
    again.undo()
    assert [item.number for item in again.state.objects] == [1, 2]
    other = photo(dropped.with_name("two.png"), (50, 60))
    for path, line in (
        (other, "two.png has colours, transparency or fractions; a label map has one whole number"),
        (grey(dropped.with_name("small.png"), np.eye(8)), "does not fit the image one: it has 8 x 8 pixels, the image"),
        (grey(dropped.with_name("black.png"), np.zeros((70, 90))), "black.png has no objects"),
        (grey(dropped.with_name("photo.png"), np.arange(6300).reshape(70, 90) % 256), "wanted at most 200 different"),
        (dropped.parent / "../../private.png", "reads only files that were dropped"),
    ):
        with pytest.raises(UserError, match=line):
            again.load_label_map(path)
    assert [item.number for item in again.state.objects] == [1, 2]


def grey(path: Path, pixels: np.ndarray) -> Path:
    save(path, pixels.astype(np.uint8))
    return path


def test_a_mask_of_a_file_is_a_prompt_at_its_place_in_the_square(model, dropped):
    resized = sam2unet.Prompter(model, FRAMING).set_image(dropped)
    mask = np.zeros((70, 90), bool)
    mask[:35, :45] = True
    corner = make_mask_prompt(mask, resized)[0, 0].numpy() > 0.5
    half = len(corner) // 2
    assert corner[:half, :half].all() and corner.sum() == half**2
    padded = sam2unet.Prompter(model, FRAMING).set_image(photo(dropped.with_name("small.png"), (32, 48)))
    middle = make_mask_prompt(np.ones((48, 32), bool), padded)[0, 0].numpy() > 0.5
    rows, columns = np.nonzero(middle)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == tuple(
        len(middle) * side // SIDE for side in (8, 56, 16, 48)
    )
