"""`make_lists` with volumes, with values of masks, and with a folder that already has a list."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.errors import UserError
from sam2unet.prompts.lists import TEST_LIST, TRAIN_LIST, read_test_list, read_train_list
from sam2unet.prompts.make_lists import make_lists
from sam2unet.slice_view import DEFAULT_VIEW, SliceView
from tests.conftest import save

SHAPE = (4, 34, 36)


def write_volume(folder: Path, name: str, level: int = 9, value: int = 1, dtype: type = np.uint8) -> None:
    """A volume whose middle slices have an object with that value, at the place that `level` gives."""
    mask = np.zeros(SHAPE, dtype)
    mask[1:3, level : level + 9, 4:20] = value
    for kind, values in (("images", np.full(SHAPE, level, np.uint8) + np.arange(36, dtype=np.uint8)), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        np.save(folder / kind / f"{name}.npy", values)


def write_picture_pair(folder: Path, name: str, top: int = 2) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[top : top + 9, 3:12], mask[top + 15 : top + 20, 20:30] = 255, 255
    save(folder / f"images/{name}.png", np.full((40, 40, 3), top, np.uint8))
    save(folder / f"masks/{name}.png", mask)


def make(source: Path, folder: Path, **options: object) -> None:
    make_lists(source / "images", source / "masks", folder, **({"view": DEFAULT_VIEW, "size": 32} | options))


def list_names(folder: Path) -> list[str]:
    """The names of the images in the list for training."""
    return [item.image.name for item in read_train_list(folder)]


def test_a_second_list_in_the_folder_has_its_own_slices_alone(tmp_path):
    write_volume(tmp_path / "train", "a")
    write_volume(tmp_path / "test", "b")
    make(tmp_path / "train", tmp_path / "lists")
    make(tmp_path / "test", tmp_path / "lists", part="test")
    assert list_names(tmp_path / "lists") == ["a_0001.png", "a_0002.png"]
    assert [pair.image.name for pair in read_test_list(tmp_path / "lists")] == ["b_0001.png", "b_0002.png"]


def test_slices_of_an_earlier_call_are_not_in_the_list(tmp_path):
    write_volume(tmp_path, "a")
    make(tmp_path, tmp_path / "lists", view=SliceView(axis=1))
    assert len(list_names(tmp_path / "lists")) == 9
    (tmp_path / "lists" / TRAIN_LIST).unlink()
    make(tmp_path, tmp_path / "lists")
    assert list_names(tmp_path / "lists") == ["a_0001.png", "a_0002.png"]


@pytest.mark.parametrize("kind", ["slices", "masks"])
def test_files_that_another_list_contains_do_not_change(kind, tmp_path):
    for name, place in (("train", 3), ("test", 7)):
        if kind == "slices":
            write_volume(tmp_path / name, "a", level=place)
        else:
            write_picture_pair(tmp_path / name, "a", top=place)
    split = None if kind == "slices" else "regions"
    make(tmp_path / "train", tmp_path / "lists", split=split)
    before = {path: path.read_bytes() for path in (tmp_path / "lists").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"lists/{kind}/.*a_000.*png would change, and another list may contain it"):
        make(tmp_path / "test", tmp_path / "lists", part="test", split=split)
    for folder in ("train", "test"):
        with pytest.raises(UserError, match=f"{TRAIN_LIST} exists and is not overwritten"):
            make(tmp_path / folder, tmp_path / "lists", split=split)
    assert before == {path: path.read_bytes() for path in (tmp_path / "lists").rglob("*") if path.is_file()}
    make(tmp_path / "train", tmp_path / "lists", part="test", split=split)  # the same files again
    assert {path: path.read_bytes() for path in before} == before and (tmp_path / "lists" / TEST_LIST).exists()


def test_flags_for_values_see_the_values_of_a_volume_with_0_and_1(tmp_path):
    write_volume(tmp_path, "a")
    make(tmp_path, tmp_path / "lists")
    assert set(np.unique(Image.open(tmp_path / "lists/slices/masks/a_0001.png"))) == {0, 255}
    make(tmp_path, tmp_path / "one", rule=(1,))
    assert list_names(tmp_path / "one") == ["a_0001.png", "a_0002.png"]
    with pytest.raises(UserError, match="none of 2 masks can be used; first: .* is empty with --mask_threshold 1"):
        make(tmp_path, tmp_path / "above", rule=1)
    make(tmp_path, tmp_path / "values", split="values")
    assert [item.masks[0].name for item in read_train_list(tmp_path / "values")] == [
        "a_0001_001.png",
        "a_0002_001.png",
    ]


@pytest.mark.parametrize("value, dtype", [(-1, np.int16), (1.5, np.float32), (70_000, np.int32)])
def test_values_that_a_png_cannot_store_are_refused(value, dtype, tmp_path):
    write_volume(tmp_path, "a", value=value, dtype=dtype)
    with pytest.raises(UserError, match="a.npy/0001 has values that a PNG cannot store"):
        make(tmp_path, tmp_path / "lists")


def test_every_picture_beside_a_volume_is_a_case_of_its_own(tmp_path):
    pages = [Image.fromarray(np.full((40, 40), 10, np.uint8)), Image.fromarray(np.full((40, 40), 90, np.uint8))]
    masks = [Image.fromarray(np.pad(np.full((9, 9), 255, np.uint8), ((3, 28), (3, 28)))) for _ in pages]
    for name in ("b1", "b2", "c1"):
        write_picture_pair(tmp_path, name)
    for kind, stack in (("images", pages), ("masks", masks)):
        stack[0].save(tmp_path / kind / "a.tif", save_all=True, append_images=stack[1:])
    make(tmp_path, tmp_path / "lists", hold_out=4)
    assert [pair.image.name for pair in read_test_list(tmp_path / "lists")] == ["c1.png"]
    assert list_names(tmp_path / "lists") == ["a_0000.png", "a_0001.png", "b1.png", "b2.png"]
    write_picture_pair(tmp_path, "a_0001")
    with pytest.raises(UserError, match="slices with the same name in .*: a.tif/0001 and a_0001.png"):
        make(tmp_path, tmp_path / "again", hold_out=4)


def test_without_a_usable_mask_for_the_test_no_list_is_written(tmp_path):
    write_picture_pair(tmp_path, "a")
    write_picture_pair(tmp_path, "b")
    save(tmp_path / "masks/b.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(UserError, match="none of 1 masks can be used; first: .*b.png is empty"):
        make(tmp_path, tmp_path / "lists", hold_out=2)
    assert not [*(tmp_path / "lists").iterdir()]
    with pytest.raises(UserError, match="images has no volumes, which --axis, --window and --context are for"):
        make(tmp_path, tmp_path / "lists", view=SliceView(window="abdomen"))
    (tmp_path / "empty").mkdir()
    write_volume(tmp_path / "empty", "a", value=0)
    with pytest.raises(UserError, match="no slice of the masks in .* has an object"):
        make(tmp_path / "empty", tmp_path / "lists")


def test_objects_with_fractions_as_values_are_refused(tmp_path):
    write_picture_pair(tmp_path, "a")
    values = np.zeros((40, 40), np.float32)
    values[3:12, 3:12], values[20:30, 20:30] = 1.2, 1.7
    (tmp_path / "masks/a.png").unlink()
    Image.fromarray(values).save(tmp_path / "masks/a.tif")
    with pytest.raises(UserError, match="a.tif has values that are not whole numbers"):
        make(tmp_path, tmp_path / "lists", split="values")
