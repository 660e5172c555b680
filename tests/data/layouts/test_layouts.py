"""Benchmarks in the layouts in which they are downloaded: each row of the specification, unpacked and as ZIP files."""

from pathlib import Path

import pytest

from sam2unet.data.layouts import table
from sam2unet.data.layouts.choose import choose_folders
from sam2unet.data.layouts.downloads import prepare_downloads
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.recipe import Study
from tests.benchmark_folders import CASES, Part, add_junk, list_contents, write_tree, write_zip
from tests.conftest import ROOT


def write_unpacked(folder: Path, case: str, files: dict[str, bytes]) -> None:
    """Two folders deep, with upper and lower case swapped, and with the files that systems leave."""
    swapped = {f"{Path(name).parent}".swapcase() + f"/{Path(name).name}": content for name, content in files.items()}
    write_tree(folder / "a/b" / case.swapcase(), swapped)
    add_junk(folder)


def write_zipped(folder: Path, case: str, files: dict[str, bytes]) -> None:
    write_zip(folder / f"{case}.zip", files)


def write_nested_zip(folder: Path, case: str, files: dict[str, bytes]) -> None:
    write_zip(folder / f"{case}.zip", files, nested=True)


def write_zip_in_zip(folder: Path, case: str, files: dict[str, bytes]) -> None:
    write_zip(folder / f"inner/{case}.zip", files)
    write_zip(folder / "all.zip", {f"{case}.zip": (folder / f"inner/{case}.zip").read_bytes()})
    (folder / f"inner/{case}.zip").unlink()


FEW = ("COD", "OMRON", "MSD")  # the other cases have nothing new in these forms
FORMS = [(case, write) for case in CASES for write in (write_unpacked, write_nested_zip)]
FORMS += [(case, write) for case in FEW for write in (write_zipped, write_zip_in_zip)]


@pytest.mark.parametrize("case, write", FORMS, ids=lambda value: getattr(value, "__name__", value))
def test_each_layout_becomes_the_folders_of_configs(case, write, shared, small_counts, tmp_path):
    files = list_contents(shared, case)
    write(tmp_path / "downloads", case, files)
    small_counts(case)
    before = describe_tree(tmp_path / "downloads")
    assert prepare_downloads(tmp_path / "downloads", tmp_path / "data") == []
    assert {path.name for path in (tmp_path / "data").iterdir()} == {part.name for part in CASES[case]}
    for part in CASES[case]:
        folder = tmp_path / "data" / part.name
        pairs = match(folder / "images", folder / "masks")
        assert {pair.image.stem for pair in pairs} == set(part.stems)
        assert {path.stem for path in (folder / "masks").iterdir()} == set(part.stems)
        for image, mask in pairs:
            assert image.read_bytes() == files[f"{part.images}/{image.name}"]
            assert mask.read_bytes() == files[f"{part.masks}/{mask.name}"]
    assert describe_tree(tmp_path / "downloads") == before


def describe_tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_every_data_set_of_configs_is_in_the_table_with_the_count_that_configs_publish():
    studies = [Study.read(path) for path in (ROOT / "configs").glob("*.yaml")]
    assert {name for study in studies for name in (*study.train, *study.test)} == set(table.COUNTS)
    for study in studies:
        for name, count in zip(study.test, study.test_count, strict=True):
            assert count in table.COUNTS[name]
        train = sum(table.COUNTS[name][0] for name in study.train)
        assert study.train_count in (None, train)


def test_every_data_set_has_a_case_here():
    assert {part.name for parts in CASES.values() for part in parts} == set(table.COUNTS)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("case", CASES)
def test_data_takes_the_only_folders_for_a_split_or_lists_all(case, split, shared, tmp_path, capsys):
    folder = tmp_path / case
    write_tree(folder, list_contents(shared, case))
    fitting = {(part.images, part.masks) for part in CASES[case] if name_split(part) in (split, "")}
    if len(fitting) == 1:
        ((images, masks),) = fitting
        pair = choose_folders(folder, split)
        assert (pair.images, pair.masks) == (folder / images, folder / masks)
        assert (
            f"note: --data {folder}: images in {folder / images}, masks in {folder / masks}" in capsys.readouterr().out
        )
    else:
        with pytest.raises(UserError, match="has several folders for" if fitting else "has no folder for") as error:
            choose_folders(folder, split)
        for part in CASES[case]:
            assert f"{part.images} with {part.masks}" in str(error.value)


def name_split(part: Part) -> str:
    """The split that the names of the folders say: a single set without such a name is for both."""
    if part.name.endswith(("-train", "-TR")):
        return "train"
    if part.name == "DIS-VD":
        return "validation"
    return "test" if "test" in part.images.lower() or "-TE" in part.images else ""
