"""What becomes of copies that are not the published ones, of masks with grey edges, and of runs that stop."""

import io
import os
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.atomic import MARKER
from sam2unet.data.layouts import prepare, table
from sam2unet.data.layouts.downloads import prepare_downloads
from tests.benchmark_folders import CASES, list_contents, make_pair, number, write_tree, write_zip


@pytest.fixture
def downloads(tmp_path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def data(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def polyps(shared, small_counts, downloads) -> dict[str, bytes]:
    """Kvasir with three pairs."""
    files = {name: content for name, content in list_contents(shared, "polyp").items() if "Kvasir" in name}
    write_tree(downloads, files)
    small_counts("polyp")
    return files


def make_files(
    shared: Path, images: str, masks: str, stems: tuple[str, ...], mask_type: str = ".png"
) -> dict[str, bytes]:
    files = {}
    for index, stem in enumerate(stems):
        image, mask = make_pair(shared, index, ".jpg", mask_type)
        files |= {f"{images}/{stem}.jpg": image, f"{masks}/{stem}{mask_type}": mask}
    return files


def test_another_split_is_named_and_used_only_anyway(polyps, downloads, data, monkeypatch, capsys):
    monkeypatch.setitem(table.COUNTS, "Kvasir", (2,))
    monkeypatch.setitem(table.OTHER_SPLITS, "Kvasir", {3: "all of Kvasir-SEG"})
    assert prepare_downloads(downloads, data) == ["Kvasir"]
    assert "3      2          not the split of the papers: all of Kvasir-SEG; not used" in capsys.readouterr().out
    assert not (data / "Kvasir").exists()
    assert prepare_downloads(downloads, data, anyway=True) == []
    assert "all of Kvasir-SEG; used anyway" in capsys.readouterr().out
    assert len(list((data / "Kvasir/images").iterdir())) == 3


def test_cod10k_with_images_without_objects_is_not_the_training_set(shared, downloads, data, monkeypatch, capsys):
    monkeypatch.setitem(table.COUNTS, "COD10K-train", (3,))
    monkeypatch.setitem(table.OTHER_SPLITS, "COD10K-train", {5: "all training images of COD10K-v3"})
    raw = list_contents(shared, "COD10K-v3")
    train = {name.replace("COD10K-v3/Train", "COD10K-train"): raw[name] for name in raw if "/Train/" in name}
    write_tree(downloads, train)
    assert prepare_downloads(downloads, data) == ["COD10K-train"]
    assert "5      3          not the split of the papers: all training images of COD10K-v3" in capsys.readouterr().out


def test_a_count_that_differs_between_sources_is_a_warning(shared, downloads, data, monkeypatch, capsys):
    write_tree(downloads / "PMD", make_files(shared, "train/image", "train/mask", number(3)))
    assert prepare_downloads(downloads, data) == []
    assert "3      5,095 or 5,096  warning: another count; it differs between sources" in capsys.readouterr().out
    assert len(list((data / "PMD-train/masks").iterdir())) == 3


def test_training_and_test_images_in_one_folder_are_refused(shared, downloads, data, small_counts, capsys):
    small_counts("CAMO-V.1.0-CVIU2019")
    write_tree(downloads, make_files(shared, "CAMO/Imgs", "CAMO/GT", number(5)))
    assert prepare_downloads(downloads, data) == ["CAMO"]
    assert "training and test images together; not used" in capsys.readouterr().out


def test_a_path_without_a_name_is_recognised_by_the_published_count(shared, downloads, data, monkeypatch, capsys):
    monkeypatch.setitem(table.COUNTS, "RMAS-train", (4,))
    write_tree(downloads / "new", make_files(shared, "train/img", "train/label", number(4)))
    write_tree(downloads / "mine", make_files(shared, "test/img", "test/label", number(3)))
    assert prepare_downloads(downloads, data) == []
    out = capsys.readouterr().out
    assert "ok; recognised by its count" in out
    assert "unknown set; put it into a folder named MAS3K or RMAS or MSD or PMD or" in out
    assert [path.name for path in data.iterdir()] == ["RMAS-train"]


def test_equal_copies_are_one_and_copies_that_differ_exclude_each_other(polyps, downloads, data, capsys):
    write_zip(downloads / "TestDataset.zip", polyps, nested=True)
    assert prepare_downloads(downloads, data) == []
    assert "not needed: same names and sizes as above" in capsys.readouterr().out
    assert all(path.is_symlink() for path in (data / "Kvasir/images").iterdir())  # the copy on the disk

    (downloads / "TestDataset/Kvasir/masks/0001.png").write_bytes(polyps["TestDataset/Kvasir/masks/0002.png"] + b"\0")
    assert prepare_downloads(downloads, data.with_name("other")) == ["Kvasir"]
    assert capsys.readouterr().out.count("not used: these copies differ; give the folder of one as DOWNLOADS") == 2


@pytest.mark.parametrize("zipped", [False, True])
def test_jpeg_masks_become_thresholded_pngs(zipped, shared, downloads, data, small_counts, capsys):
    files = make_files(shared, "testset/images", "testset/gt", number(3), ".jpg")
    small_counts("ORSI-4199")
    write_zip(downloads / "ORSI-4199.zip", files) if zipped else write_tree(downloads / "ORSI-4199", files)
    for _ in range(2):
        assert prepare_downloads(downloads, data) == []
        assert "ok; masks are JPEG and will be thresholded at 128" in capsys.readouterr().out
        assert sorted(os.listdir(data / "ORSI-4199/masks")) == [f"{stem}.png" for stem in number(3)]
        for stem in number(3):
            grey = np.asarray(Image.open(io.BytesIO(files[f"testset/gt/{stem}.jpg"])).convert("L"))
            assert set(np.unique(grey)) - {0, 255}
            binary = np.asarray(Image.open(data / f"ORSI-4199/masks/{stem}.png"))
            np.testing.assert_array_equal(binary, np.where(grey > 128, 255, 0))


def test_grey_edges_in_masks_of_mirrors_are_thresholded_and_other_masks_linked(shared, downloads, data, capsys):
    files = make_files(shared, "test/image", "test/mask", number(3))
    with Image.open(io.BytesIO(files["test/mask/0002.png"])) as mask:
        soft = mask.resize((96, 96), Image.Resampling.BILINEAR)
    soft.save(buffer := io.BytesIO(), "PNG")
    write_tree(downloads / "MSD", files | {"test/mask/0002.png": buffer.getvalue()})
    assert prepare_downloads(downloads, data) == []
    assert "note: 1 masks of MSD were thresholded at 128 and written as PNG" in capsys.readouterr().out
    assert [path.is_symlink() for path in sorted((data / "MSD/masks").iterdir())] == [True, False, True]
    binary = np.asarray(Image.open(data / "MSD/masks/0002.png"))
    np.testing.assert_array_equal(binary, np.where(np.asarray(soft) > 128, 255, 0))
    assert prepare_downloads(downloads, data) == []


def test_copies_are_files_and_a_second_run_changes_nothing(polyps, downloads, data):
    assert prepare_downloads(downloads, data, copy=True) == []
    before = {path: path.lstat().st_mtime_ns for path in data.rglob("*")}
    assert not any(path.is_symlink() for path in before)
    assert prepare_downloads(downloads, data, copy=True) == []
    assert {path: path.lstat().st_mtime_ns for path in data.rglob("*")} == before
    (data / "Kvasir/images/0001.png").unlink()
    assert prepare_downloads(downloads, data, copy=True) == []
    assert (data / "Kvasir/images/0001.png").is_file()


def test_files_that_the_script_did_not_make_stay(polyps, downloads, data, capsys):
    write_tree(data / "Kvasir", {"images/mine.png": b"mine"})
    assert prepare_downloads(downloads, data) == []
    assert f"note: {data / 'Kvasir'} stays as it is; this script did not make it" in capsys.readouterr().out
    assert [path.name for path in (data / "Kvasir").rglob("*")] == ["images", "mine.png"]


@pytest.mark.parametrize("copy", [False, True])
def test_a_file_of_the_user_in_a_prepared_folder_stays(copy, polyps, downloads, data, capsys):
    prepare_downloads(downloads, data, copy=copy)
    path = data / "Kvasir/images/0001.png"
    path.unlink()
    path.write_bytes(b"mine")
    assert prepare_downloads(downloads, data, copy=copy) == ["Kvasir"]
    assert f"{path} is not the file that this script makes" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_killed_run_leaves_no_data_set_and_the_next_run_completes_it(
    zipped, shared, downloads, data, small_counts, monkeypatch
):
    files = list_contents(shared, "CAMO-V.1.0-CVIU2019")
    small_counts("CAMO-V.1.0-CVIU2019")
    write_zip(downloads / "CAMO.zip", files) if zipped else write_tree(downloads, files)
    place = prepare.SourceFolder.place

    def place_and_die(source, name, target):
        place(source, name, target)
        if len(list(data.rglob("*.jpg"))) >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(prepare.SourceFolder, "place", place_and_die)
        prepare_downloads(downloads, data)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len([path for path in data.iterdir() if not path.name.startswith(".")]) == 1
    (data / ".3.zip.sam2unet.part").write_bytes(b"a ZIP file in a ZIP file")
    kept = {path.stat().st_ino for path in data.rglob("*.jpg")}
    assert prepare_downloads(downloads, data) == []
    assert {path.name for path in data.iterdir()} == {"CAMO-train", "CAMO"}
    for part in CASES["CAMO-V.1.0-CVIU2019"]:
        for stem in part.stems:
            assert (data / part.name / f"images/{stem}.jpg").read_bytes() == files[f"{part.images}/{stem}.jpg"]
            assert (data / part.name / f"masks/{stem}.png").read_bytes() == files[f"{part.masks}/{stem}.png"]
    assert kept <= {path.stat().st_ino for path in data.rglob("*.jpg")}  # they are not written again
    assert {path.name for path in data.rglob(".*")} == {MARKER}


def test_two_processes_at_once_prepare_the_same_folders(polyps, tmp_path, data):
    write_zip(tmp_path / "zipped/x.zip", polyps)
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            os._exit(len(prepare_downloads(tmp_path / "zipped", data)))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(list(data.rglob("*.png"))) == 6 and [path.name for path in data.iterdir()] == ["Kvasir"]


def write_hostile_zip(path: Path, files: dict[str, bytes]) -> None:
    """An archive with names that lead out of it, a symbolic link, and members that are not images."""
    write_zip(path, files)
    with zipfile.ZipFile(path, "a") as file:
        for name in ("../../evil.png", "/evil.png", "TestDataset/Kvasir/images/../../../../evil.png"):
            file.writestr(name, b"evil")
        link = zipfile.ZipInfo("TestDataset/Kvasir/images/0009.png")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("TestDataset/Kvasir/masks/0009.png", files["TestDataset/Kvasir/masks/0001.png"])


def test_a_hostile_archive_writes_nothing_outside_the_data_root(polyps, tmp_path, data, small_counts):
    write_hostile_zip(tmp_path / "hostile/x.zip", polyps)
    before = set(tmp_path.rglob("*"))
    assert prepare_downloads(tmp_path / "hostile", data) == []
    assert sorted(path.name for path in (data / "Kvasir/images").iterdir()) == ["0001.png", "0002.png", "0003.png"]
    assert all(data in path.parents or path == data for path in set(tmp_path.rglob("*")) - before)
    assert not any(path.is_symlink() for path in data.rglob("*"))


def test_damaged_archives_are_named_and_the_other_sets_are_ready(polyps, downloads, data, shared, small_counts, capsys):
    write_zip(downloads / "ECSSD.zip", list_contents(shared, "ECSSD"))
    content = bytearray((downloads / "ECSSD.zip").read_bytes())
    start = content.index(b"images/0001.jpg") + 200
    content[start : start + 50] = bytes(50)
    (downloads / "ECSSD.zip").write_bytes(content)
    (downloads / "HKU-IS.zip").write_bytes(b"PK\3\4 half a download")
    (downloads / "DUTS.rar").write_bytes(b"Rar!")
    small_counts("ECSSD")
    assert prepare_downloads(downloads, data) == ["ECSSD"]
    out, err = capsys.readouterr()
    assert f"note: {downloads / 'HKU-IS.zip'} cannot be read: File is not a zip file; download it again" in out
    assert f"unpack these if they contain data sets: {downloads / 'DUTS.rar'}\n" in out
    assert "warning: ECSSD is not ready: " in err and "images/0001.jpg is damaged (" in err
    assert [path.name for path in data.iterdir() if path.name[0] != "."] == ["Kvasir"]


def test_a_disk_that_is_too_small_is_named_before_anything_is_unpacked(polyps, tmp_path, data, monkeypatch, capsys):
    write_zip(tmp_path / "zipped/x.zip", polyps)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    assert prepare_downloads(tmp_path / "zipped", data) == ["Kvasir"]
    assert "Kvasir needs 0.0 GB in" in capsys.readouterr().err
    assert list(data.rglob("*.png")) == []


def test_the_data_root_may_be_inside_and_links_in_a_circle_end(polyps, downloads, capsys):
    (downloads / "circle").symlink_to(downloads)
    for _ in range(2):
        assert prepare_downloads(downloads, downloads / "DATA") == []
        assert "Kvasir" in capsys.readouterr().out
    assert [path.name for path in (downloads / "DATA").iterdir()] == ["Kvasir"]


def test_images_and_masks_may_be_in_two_archives(shared, downloads, data, small_counts):
    for case, images, masks in (
        ("OMRON", "DUT-OMRON-image (1).zip", "DUT-OMRON-gt-pixelwise.zip.zip"),
        ("ECSSD", "images.zip", "ground_truth_mask.zip"),
    ):
        small_counts(case)
        files = list_contents(shared, case)
        for name, folder in ((images, CASES[case][0].images), (masks, CASES[case][0].masks)):
            write_zip(downloads / name, {path: files[path] for path in files if path.startswith(folder)})
    assert prepare_downloads(downloads, data) == []
    for name in ("DUT-OMRON", "ECSSD"):
        assert [path.name for path in sorted((data / name / "masks").iterdir())] == ["0001.png", "0002.png", "0003.png"]


def test_hidden_characters_in_paths_are_no_problem(polyps, downloads, data, capsys):
    downloads.rename(other := downloads.with_name(os.fsdecode(b"line\nbreak \xff")))
    for _ in range(2):
        assert prepare_downloads(other, data) == []
        out = capsys.readouterr().out
        assert len(out.splitlines()) == 3 and "stays as it is" not in out


def test_a_link_to_nothing_is_named(polyps, downloads, data, capsys):
    (downloads / "TestDataset/Kvasir/masks/0001.png").unlink()
    (downloads / "TestDataset/Kvasir/masks/0001.png").symlink_to("nothing")
    assert prepare_downloads(downloads, data, copy=True) == ["Kvasir"]
    assert "Kvasir/masks/0001.png: No such file or directory; remove or replace it" in capsys.readouterr().err


def test_a_list_of_stems_that_is_a_link_to_nothing_does_not_matter(polyps, downloads, data, capsys):
    (downloads / "TestDataset/Kvasir/train.txt").symlink_to("nothing")
    (downloads / "TestDataset/Kvasir/images/train.txt").symlink_to("nothing")
    assert prepare_downloads(downloads, data) == []
    assert "left out" not in capsys.readouterr().out
    assert len(list((data / "Kvasir/images").iterdir())) == 3
