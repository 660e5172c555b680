"""Packed lists of files are the lists of `list_images`, and names are found in them."""

import os

import numpy as np
import pytest

from sam2unet.data import packed_files
from sam2unet.data.packed import pack_texts
from sam2unet.data.packed_files import cut, find_missing, find_places, pack_images, pack_optional, take
from sam2unet.data.pairs import list_images
from sam2unet.errors import UserError


@pytest.mark.parametrize("volumes", [False, True])
def test_a_packed_folder_is_the_listed_folder(volumes, tmp_path):
    for name in ("b.png", "a.JPG", "a-b.png", ".hidden.png", "x.y.tiff", "notes.txt", "grün ü.webp", "c..bmp"):
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    (tmp_path / "folder.png").mkdir()
    names, files = pack_images(tmp_path, volumes)
    assert dict(zip(names, files, strict=True)) == list_images(tmp_path, volumes)
    assert list(files) == list(list_images(tmp_path, volumes).values())
    (tmp_path / "list.txt").write_text("b.png\na.JPG\n")
    names, files = pack_images(tmp_path / "list.txt", volumes)
    assert dict(zip(names, files, strict=True)) == list_images(tmp_path / "list.txt", volumes)


def test_errors_are_those_of_the_list(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        pack_images(tmp_path, True)
    for name in ("a.png", "b.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"files with the same stem in .*: a\.jpg and a\.png"):
        pack_images(tmp_path, True)
    with pytest.raises(UserError, match="no such folder"):
        pack_images(tmp_path / "none")


def test_volumes_are_packed_if_there_is_no_image(tmp_path):
    for name in ("a.nii.gz", "b.npy"):
        (tmp_path / name).touch()
    names, files = pack_images(tmp_path, True)
    assert list(names) == ["a", "b"] and [file.name for file in files] == ["a.nii.gz", "b.npy"]


def test_names_are_found_also_if_hashes_are_equal(monkeypatch):
    names, others = pack_texts(["c", "a", "x", ""]), pack_texts(["a", "b", "c"])
    assert find_places(names, others).tolist() == [2, 0, -1, -1]
    assert find_places(others, others).tolist() == [0, 1, 2]
    monkeypatch.setattr(packed_files, "hash_elements", lambda packed: np.zeros(len(packed), np.int64))
    assert find_places(names, others).tolist() == [2, 0, -1, -1]


def test_parts_of_a_packed_list(tmp_path):
    packed = pack_optional([tmp_path / name if name else None for name in ("a", "", "bb", "")])
    assert list(packed) == [tmp_path / "a", None, tmp_path / "bb", None]
    assert find_missing(packed).tolist() == [1, 3]
    assert list(cut(packed, 1, 3)) == [None, tmp_path / "bb"] and list(cut(packed, 4, 9)) == []
    assert list(take(packed, np.array([2, -1, 0]))) == [tmp_path / "bb", None, tmp_path / "a"]
    assert cut([1, 2, 3], 1, 2) == [2]
