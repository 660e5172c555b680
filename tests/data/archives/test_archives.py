"""Members of archives are read in place, byte for byte."""

import os
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from sam2unet.data.archives.contents import list_members
from sam2unet.data.archives.member import MOST_OPEN, Member, open_parts
from sam2unet.data.images.masks import read_mask
from sam2unet.data.images.reading import read_image
from sam2unet.errors import UserError
from tests.med2d import pack_zip, split_zip, write_med2d


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_med2d(tmp_path_factory.mktemp("med2d"))


def pack_tar(folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, folder.name)
    return path


def check_members(archive, folder):
    members = {member.name_inside: member for member in list_members(archive)}
    files = {file.relative_to(folder.parent).as_posix(): file for file in folder.rglob("*.png")}
    assert members.keys() == files.keys()
    with ThreadPoolExecutor(4) as pool:  # the threads share the open files
        contents = dict(zip(members, pool.map(Member.read_bytes, members.values()), strict=True))
    assert all(contents[name] == file.read_bytes() for name, file in files.items())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_the_files(folder, tmp_path, method):
    check_members(pack_zip(folder, tmp_path / "a.zip", method), folder)


def test_members_of_a_large_zip_are_the_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)  # so that the end of the table has its 64-bit form
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3000)  # so that larger values are in the extra fields
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            with archive.open(file.relative_to(folder.parent).as_posix(), "w", force_zip64=True) as member:
                member.write(file.read_bytes())
    assert path.read_bytes().count(b"PK\6\7") == 1
    check_members(path, folder)


def test_members_of_a_tar_are_the_files(folder, tmp_path):
    check_members(pack_tar(folder, tmp_path / "a.tar"), folder)


@pytest.mark.skipif(not shutil.which("zip"), reason="needs the program zip")
def test_members_of_a_split_zip_are_the_files(folder, tmp_path):
    last = split_zip(pack_zip(folder, tmp_path / "a.zip"), tmp_path / "s.zip")
    assert len(list(tmp_path.glob("s.z*"))) == 3
    check_members(last, folder)
    with pytest.raises(UserError, match=r"give the part that ends in \.zip"):
        list(list_members(tmp_path / "s.z01"))
    open_parts.cache_clear()
    (tmp_path / "s.z02").unlink()
    with pytest.raises(UserError, match=r"the last of 3 parts, but 2 are .* s\.z01 to s\.z02"):
        list(list_members(last))


def test_images_and_masks_have_the_pixels_of_the_files(folder, tmp_path):
    members = {member.name_inside: member for member in list_members(pack_zip(folder, tmp_path / "a.zip"))}
    for file in list(folder.rglob("*.png"))[:20]:
        member = members[file.relative_to(folder.parent).as_posix()]
        assert (member.name, member.stem, member.suffix) == (file.name, file.stem, file.suffix)
        assert np.array_equal(read_image(member), read_image(file))
        if file.parent.name == "masks":
            assert np.array_equal(read_mask(member, 0), read_mask(file, 0))


def test_archives_that_cannot_be_read_say_why(folder, tmp_path):
    for name, method, words in (("b.zip", zipfile.ZIP_BZIP2, "compression method 12"),):
        with pytest.raises(UserError, match=words):
            list(list_members(pack_zip(folder, tmp_path / name, method)))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "x")
    with pytest.raises(UserError, match="packed as a whole"):
        list(list_members(tmp_path / "a.tar.gz"))
    good = pack_zip(folder, tmp_path / "c.zip").read_bytes()
    for number, (content, words) in enumerate(
        [
            (b"", "not a zip archive"),
            (good[:-100], "not a zip archive"),
            (good.replace(b"PK\1\2", b"PK\1\0"), "damaged table"),
            (bytearray(good[:-22]) + good[-22:].replace(good[-6:-2], b"\xf0\xff\xff\x7f"), "too short"),
        ]
    ):
        path = tmp_path / f"bad{number}.zip"
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            list(list_members(path))
    (tmp_path / "bad.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match="not a tar archive"):
        list(list_members(tmp_path / "bad.tar"))


def test_a_changed_archive_gives_an_error(folder, tmp_path):
    path = pack_zip(folder, tmp_path / "a.zip")
    member = next(m for m in list_members(path) if m.name.endswith("000.png") and "masks" in m.name_inside)
    content = bytearray(path.read_bytes())
    begin = content.index(member.name.encode()) + len(member.name)  # the packed bytes follow the name
    content[begin : begin + 8] = b"\xff" * 8
    open_parts.cache_clear()
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_mask(member)
    path.write_bytes(b"x" * len(content))
    open_parts.cache_clear()
    with pytest.raises(UserError, match="has changed"):
        member.read_bytes()


def test_rows_of_a_sparse_matrix_are_masks(tmp_path):
    masks = np.random.default_rng(0).integers(0, 2, (3, 20, 30), np.uint8)
    (tmp_path / "label").mkdir()
    path = tmp_path / "label/x.(3, 20, 30, 1).npz"
    sparse.save_npz(path, sparse.csr_matrix(masks.reshape(3, -1)))
    for source, name in ((path, ""), (pack_zip(tmp_path / "label", tmp_path / "a.zip"), None)):
        for row, mask in enumerate(masks):
            if name is None:
                (member,) = (Member(m.archive, *list(vars(m).values())[1:5], row) for m in list_members(source))
            else:
                member = Member(source, name, 0, source.stat().st_size, "plain", row)
            assert np.array_equal(read_mask(member), mask * 255)
            assert member.stem == f"x.(3, 20, 30, 1)/{row}"
    Image.new("L", (3, 3)).save(tmp_path / "label/y.(3, 20, 30, 1).png")
    bad = tmp_path / "label/z.(3, 20, 31, 1).npz"
    bad.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="another shape"):
        read_mask(Member(bad, "", 0, bad.stat().st_size, "plain", 0))


def test_archives_that_are_not_read_any_more_are_closed(tmp_path):
    open_parts.cache_clear()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(MOST_OPEN + 50):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(b"content")
        assert open_parts(path).read(0, 7) == b"content"
    assert len(os.listdir("/proc/self/fd")) == before + MOST_OPEN
    open_parts.cache_clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_zip_with_65535_files_has_a_small_end(folder, tmp_path):
    path = pack_zip(folder, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[-14:-10] = b"\xff" * 4  # the number of entries, twice. 65,535 is the largest for an end of this form.
    path.write_bytes(content)
    check_members(path, folder)


def test_a_damaged_entry_of_a_zip_is_one_line(folder, tmp_path):
    good = pack_zip(folder, tmp_path / "good.zip").read_bytes()
    entry = good.rindex(b"PK\1\2")
    other_part, no_start = bytearray(good), bytearray(good)
    other_part[entry + 34 : entry + 36] = b"\x09\0"
    no_start[entry + 42 : entry + 46] = b"\xff" * 4  # the start is in the extra field, which is too short
    no_start[entry + 28] -= 4
    no_start[entry + 30] = 4
    end = entry + 46 + no_start[entry + 28]
    no_start[end : end + 4] = b"\1\0\0\0"
    for content in (other_part, no_start):
        open_parts.cache_clear()
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(UserError, match="damaged table of contents"):
            list(list_members(tmp_path / "bad.zip"))


def test_a_tar_that_is_damaged_in_the_middle_is_refused(folder, tmp_path, capsys):
    path = pack_tar(folder, tmp_path / "a.tar")
    with tarfile.open(path) as archive:
        entry = archive.getmembers()[20]
    content = bytearray(path.read_bytes())
    content[entry.offset : entry.offset + 512] = b"\xaa" * 512
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"is damaged at byte {entry.offset}"):
        list(list_members(path))
    content[entry.offset : entry.offset + 512] = b"\0" * 512  # a gap of a download
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"is damaged at byte {entry.offset}"):
        list(list_members(path))


def test_links_in_a_tar_are_counted(folder, tmp_path, capsys):
    (tmp_path / "d/images").mkdir(parents=True)
    (tmp_path / "d/images/a.png").write_bytes(b"x")
    os.link(tmp_path / "d/images/a.png", tmp_path / "d/images/b.png")
    os.symlink("a.png", tmp_path / "d/images/c.png")
    assert len(list(list_members(pack_tar(tmp_path / "d", tmp_path / "a.tar")))) == 1
    assert "2 links in" in capsys.readouterr().err


def test_names_that_lead_out_of_a_folder_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d/../../images/a.png", b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../images/a.png"))
    for name in ("a.zip", "a.tar"):
        with pytest.raises(UserError, match="leads out of its folder"):
            list(list_members(tmp_path / name))


def test_other_files_are_not_called_parts(folder, tmp_path):
    path = pack_zip(folder, tmp_path / "a.zip")
    for name in ("a.7z", "notes.txt", "a.zip.001"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UserError, match=r"is not a folder, a \.zip, a \.tar or a \.json list"):
            list(list_members(tmp_path / name))
    (tmp_path / "a.z01").write_bytes(b"of another archive")
    with pytest.raises(UserError, match=r"a\.z01 is not a part of .*a\.zip, which has 1"):
        list(list_members(path))
