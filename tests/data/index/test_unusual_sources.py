"""Sources and conditions that are unusual, or wrong: an index is right, or one line says why there is none."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from sam2unet.atomic import PART, claim_folder
from sam2unet.data.index import check_files
from sam2unet.data.index.build import build_index
from sam2unet.data.index.listing import ColumnWriter
from sam2unet.data.index.naming import IMAGE, MASK, FileRole, find_role
from sam2unet.data.index.select import IndexQuery, open_index_parts
from sam2unet.errors import UserError
from tests.med2d import pack_zip, write_pairs


def list_names(opened):
    return [opened.name_image(item.image) for item in opened.items]


def test_files_that_only_look_like_labels_of_imed361m_are_no_masks():
    names = ("(3)", "(03, 4)", "( , )", "()", "(0, 2, 2, 1)", "(12345678, 2, 2, 1)")
    assert [find_role(f"d/label/x.{name}.npz") for name in names] == [None] * len(names)
    assert find_role("d/label/x.(3, 20, 30, 1).npz").rows == find_role("d/label/x.(3,20,30,1).npz").rows == 3


def test_links_to_other_folders_are_followed(tmp_path):
    write_pairs(tmp_path / "disk", ["a", "b"])
    root = tmp_path / "data/train"
    root.mkdir(parents=True)
    for kind in ("images", "masks"):
        os.symlink(tmp_path / "disk" / kind, root / kind)
    write_pairs(tmp_path / "data/v2", ["c"])
    os.symlink("v2", tmp_path / "data/latest")
    os.symlink(tmp_path, root / "above")
    os.symlink("itself", root / "itself")
    opened = build_index([tmp_path / "data"], tmp_path / "index", workers=1)
    assert list_names(opened) == ["data/v2/images/c", "data/train/images/a", "data/train/images/b"]  # each once


def test_many_data_sets_have_numbers_of_their_own(tmp_path):
    with ExitStack() as stack:
        writer = ColumnWriter(tmp_path, stack)
        for number in range(32_770):
            writer.add(0, tmp_path, FileRole(IMAGE, f"{number}/a", f"case {number}", "a"))
        writer.add(0, tmp_path, FileRole(MASK, "0/a", "case 0", "a"))
        writer.write()
    assert np.array_equal(np.load(tmp_path / "image_dataset.npy"), np.arange(32_770))


@pytest.mark.parametrize("other", ["img/a.jpg", "gt/a.png"])
def test_two_files_with_one_name_are_named(other, tmp_path):
    folder = write_pairs(tmp_path / "data", ["a", "b"])
    path = folder / other
    path.parent.mkdir()
    Image.new("L", (20, 20)).save(path)
    kind = "image" if "img" in other else "mask"
    with pytest.raises(UserError, match=f"1 {kind}s have the name of another one") as error:
        build_index([folder], tmp_path / "index", workers=1)
    assert str(path) in str(error.value) and str(folder / f"{kind}s/a.png") in str(error.value)


@pytest.mark.parametrize("masks", [["a.png", 1], "a.png", None])
def test_a_list_with_other_values_than_paths_is_refused(masks, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"a.png": masks}))
    with pytest.raises(UserError, match=r"list\.json has no list of mask paths for a\.png"):
        build_index([tmp_path / "list.json"], tmp_path / "index", workers=1)


def test_a_list_gives_an_image_several_masks_and_may_name_what_is_no_file(tmp_path):
    folder = write_pairs(tmp_path / "data", ["a", "b"])
    masks = [f"data/masks/{name}.png" for name in "ab"]
    (tmp_path / "list.json").write_text(json.dumps({"data/images/a.png": masks, "data/images/\0.png": masks}))
    opened = build_index([tmp_path / "list.json"], tmp_path / "index", workers=1)
    assert opened.facts["faults"]["UNREADABLE"] == {"image": 1, "mask": 0}
    assert opened.items[0].masks == (folder / "masks/a.png", folder / "masks/b.png")


def test_images_of_sources_with_one_name_have_different_names(tmp_path):
    folders = [write_pairs(tmp_path / f"{site}/data", ["a"]) for site in "xy"]
    for number, sources in enumerate([folders, [pack_zip(f, f.with_suffix(".zip")) for f in folders]]):
        names = list_names(build_index(sources, tmp_path / f"index{number}", workers=1))
        assert len(set(names)) == 2
        assert all(
            name.startswith(f"{tmp_path}/{site}/data".lstrip("/")) for name, site in zip(names, "xy", strict=True)
        )
    one = build_index([folders[0], pack_zip(folders[1], tmp_path / "other.zip")], tmp_path / "index", workers=1)
    assert list_names(one) == ["data/images/a", "other/data/images/a"]


def test_an_archive_that_is_a_link_keeps_its_name(tmp_path):
    folder = write_pairs(tmp_path / "data", ["a"])
    (tmp_path / "snapshot").mkdir()
    pack_zip(folder, tmp_path / "blob")  # as in the cache of Hugging Face
    os.symlink(tmp_path / "blob", tmp_path / "snapshot/a.zip")
    opened = build_index([tmp_path / "snapshot/a.zip"], tmp_path / "index", workers=1)
    assert list_names(opened) == ["data/images/a"]


def test_two_processes_do_not_build_one_index(tmp_path):
    folder, index = write_pairs(tmp_path / "data", ["a"]), tmp_path / "index"
    claim_folder(index, "index")
    words = "import fcntl, sys, time\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
    words += "print('locked', flush=True)\ntime.sleep(60)\n"
    command = [sys.executable, "-c", words, str(index / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="another process builds the index in .*; wait for it"):
            build_index([folder], index, workers=1)
        process.kill()
    assert build_index([folder], index, workers=1).facts["images"] == 1


def test_a_folder_that_another_process_claims_at_this_moment_can_be_claimed(tmp_path):
    (tmp_path / f".marker{PART}").touch()
    assert not claim_folder(tmp_path, "index") and claim_folder(tmp_path, "index")


def test_a_source_that_comes_twice_is_refused(tmp_path):
    folder = write_pairs(tmp_path / "data/inside", ["a"])
    for other, words in ((folder, "given twice"), (tmp_path / "data", "is inside another source")):
        with pytest.raises(UserError, match=words):
            build_index([folder, other], tmp_path / "index", workers=1)


def test_masks_that_training_cannot_read_are_left_out(tmp_path):
    folder = write_pairs(tmp_path / "data", ["a", "b", "c", "d", "e"])
    grey = np.asarray(Image.open(folder / "masks/a.png")).copy()
    grey[14:19, 2:19] = 100  # a second object: a label map
    Image.fromarray(grey).save(folder / "masks/b.png")
    alpha = np.stack([np.full_like(grey, 255), grey], -1)
    Image.fromarray(alpha).save(folder / "masks/c.png")  # white everywhere; the transparency is the mask
    Image.fromarray(grey > 0).save(folder / "masks/d.png")  # 1 bit
    soft = np.asarray(Image.open(folder / "masks/a.png")).copy()
    soft[4, 5:12] = 100
    Image.fromarray(soft).save(folder / "masks/e.png")
    opened = build_index([folder], tmp_path / "index", workers=1)
    assert opened.facts["faults"]["CODING"]["mask"] == 2 and opened.facts["faults"]["SOFT"]["mask"] == 1
    pairs = open_index_parts(IndexQuery(tmp_path / "index"), seed=0).training.items.pairs
    assert [mask.stem for _, mask in pairs] == ["a", "d", "e"]


def test_a_number_of_processes_that_cannot_be_is_refused(tmp_path):
    folder = write_pairs(tmp_path / "data", ["a"])
    with pytest.raises(UserError, match="workers is -1; it must be from 0 to 1024"):
        build_index([folder], tmp_path / "index", workers=-1)


def end_process(folder, rows):
    os._exit(1)


def test_a_process_that_the_system_ends_is_one_line_and_the_build_goes_on(tmp_path, monkeypatch):
    folder = write_pairs(tmp_path / "data", ["a"])
    with monkeypatch.context() as context, pytest.raises(UserError, match="the same command goes on"):
        context.setattr(check_files, "check_chunk", end_process)
        build_index([folder], tmp_path / "index", workers=1)
    assert build_index([folder], tmp_path / "index", workers=1).facts["checked"] == 1
