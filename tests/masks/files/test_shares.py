"""Maps for very many images: shares of a job, tar archives, large images, and what the start of a run looks at."""

import os
import resource
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.errors import UserError
from sam2unet.masks.files.find_inputs import find_inputs
from sam2unet.masks.files.targets import MapArchive
from sam2unet.runtime.shards import Shard
from tests.conftest import save

NAMES = ("a", "a.b", "a-c", "d/a", "d/é", "e")


@pytest.fixture
def photos(polyps, tmp_path) -> Path:
    """Photographs of 90x70 in a folder and a folder inside."""
    for name, path in zip(NAMES, sorted((polyps / "images").iterdir()), strict=False):
        save(tmp_path / f"images/{name}.jpg", np.asarray(Image.open(path).convert("RGB").resize((90, 70))))
    return tmp_path / "images"


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".sam2unet")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def members(folder: Path) -> dict[str, bytes]:
    """The content of all archives in a folder, read by byte range, as from a file that is not compressed."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = data[member.offset_data : member.offset_data + member.size]
    return found


def test_shares_make_the_maps_of_one_run_and_are_done_again_alone(maps_of, photos, tmp_path):
    flags = ("--recursive", "--uncertainty")
    assert maps_of(photos, tmp_path / "whole", *flags).status == 0
    for number in (3, 1, 2):
        ended = maps_of(photos, tmp_path / "shares", *flags, "--shard", f"{number}/3")
        assert f"share {number}/3: 2 images" in ended.out and f"share {number}/3: 2 maps in" in ended.out
    assert contents(tmp_path / "shares") == contents(tmp_path / "whole")
    (tmp_path / "shares/d/a.png").unlink()  # in the order of the paths it is the fourth file
    outs = [maps_of(photos, tmp_path / "shares", *flags, "--shard", f"{n}/3", "--skip_existing").out for n in (1, 2, 3)]
    assert ["1 of 2 maps are already in" in out for out in outs] == [True, False, False]
    assert contents(tmp_path / "shares") == contents(tmp_path / "whole")
    ended = maps_of(photos, tmp_path / "x", "--shard", "4/3")
    assert ended.is_refusal("--shard is 4/3; wanted I/N") and not (tmp_path / "x").exists()


def test_archives_have_the_files_of_a_folder_of_maps(maps_of, photos, tmp_path, monkeypatch):
    flags = ("--recursive", "--overlay", "--uncertainty")
    assert maps_of(photos, tmp_path / "folder", *flags).status == 0
    monkeypatch.setattr(MapArchive, "MEMBERS", 5)
    ended = maps_of(photos, tmp_path / "tars", *flags, "--archive", "--batch_size", 2)
    assert ended.status == 0, ended.err
    assert sorted(contents(tmp_path / "tars")) == [f"maps-0000{number}.tar" for number in range(3)]
    found = members(tmp_path / "tars")
    assert found.keys() == contents(tmp_path / "folder").keys()
    grey = {name: np.asarray(Image.open(tmp_path / "folder" / f"{name}.png")).astype(int) for name in NAMES}
    (tmp_path / "unpacked").mkdir()
    for path in (tmp_path / "tars").glob("*.tar"):
        shutil.unpack_archive(path, tmp_path / "unpacked")
    for name, values in grey.items():  # in batches, sums have other last bits
        assert np.abs(np.asarray(Image.open(tmp_path / f"unpacked/{name}.png")).astype(int) - values).max() <= 1
    keys = [name.removeprefix("overlay/").removeprefix("uncertainty/").rpartition(".")[0] for name in found]
    assert keys == [key for key in dict.fromkeys(keys) for _ in range(3)]  # the files of an image are neighbours

    again = maps_of(photos, tmp_path / "tars", *flags, "--archive")
    assert again.is_refusal("maps-00000.tar exists; --skip_existing adds to it, or give another --save_path")
    save(photos / "f.jpg", np.zeros((9, 9, 3), np.uint8))
    more = maps_of(photos, tmp_path / "tars", *flags, "--archive", "--skip_existing")
    assert "6 of 7 maps are already in" in more.out
    with tarfile.open(tmp_path / "tars/maps-00003.tar") as tar:
        assert tar.getnames() == ["f.png", "overlay/f.jpg", "uncertainty/f.png"]


def test_archives_of_shares_do_not_collide(maps_of, photos, tmp_path):
    assert maps_of(photos, tmp_path / "folder", "--recursive").status == 0
    for number in (1, 2, 2):
        ended = maps_of(photos, tmp_path / "tars", "--recursive", "--archive", "--shard", f"{number}/2")
    assert ended.is_refusal("maps-2of2-00000.tar exists")
    assert sorted(contents(tmp_path / "tars")) == ["maps-1of2-00000.tar", "maps-2of2-00000.tar"]
    assert members(tmp_path / "tars") == contents(tmp_path / "folder")
    more = maps_of(photos, tmp_path / "tars", "--recursive", "--archive", "--skip_existing", "--shard", "1/3")
    assert "share 1/3: all 2 maps are already in" in more.out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/maps-00000.tar").write_bytes(b"mine")
    ended = maps_of(photos, tmp_path / "mine", "--archive", "--skip_existing")
    assert ended.is_refusal("holds maps-00000.tar, not from test.py") and contents(tmp_path / "mine")


def test_an_archive_ends_after_the_last_whole_image(tmp_path):
    class Interrupted(dict):
        def items(self):
            yield tmp_path / "b.png", b"half"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), MapArchive(tmp_path, Shard(), False) as archive:
        archive.write({tmp_path / "a.png": b"whole", tmp_path / "prob/a.npz": b"too"})
        archive.write(Interrupted(b=1))
    assert members(tmp_path) == {"a.png": b"whole", "prob/a.npz": b"too"}
    assert [path.name for path in tmp_path.iterdir()] == ["maps-00000.tar"]


def test_a_full_disk_leaves_no_half_archive(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*: File too large"):
            with MapArchive(tmp_path, Shard(), False) as archive:
                for name in "abcdefgh":
                    archive.write({tmp_path / name: bytes(20_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = members(tmp_path)
    assert set(found.values()) <= {bytes(20_000)} and all(".tar" in path.name for path in tmp_path.iterdir())


def test_a_video_has_no_shares(maps_of, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    assert maps_of(tmp_path / "a.mp4", tmp_path / "x", "--shard", "1/2").is_refusal("--archive and --shard are for im")


def test_large_images_need_tiles(maps_of, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # Pillow refuses twice as many
    ended = maps_of(photos / "a.jpg", tmp_path / "out")
    assert ended.is_refusal("is too large") and "test --tile takes up to 1000 million" in ended.err[0]
    assert maps_of(photos / "a.jpg", tmp_path / "out", "--tile", "48,12").status == 0
    assert Image.MAX_IMAGE_PIXELS == 3000


def test_a_mask_that_cannot_be_read_is_a_bad_image(maps_of, photos, tmp_path):
    for name in NAMES:
        save(tmp_path / f"masks/{name}.png", np.zeros((35, 45), np.uint8))
    (tmp_path / "masks/d/a.png").write_bytes(b"x")
    flags = ("--recursive", "--test_gt_path", tmp_path / "masks")
    ended = maps_of(photos, tmp_path / "out", *flags)
    assert ended.is_refusal("masks/d/a.png: not an image or damaged")
    assert maps_of(photos, tmp_path / "out", *flags, "--on_bad_image", "skip").status == 1
    found = contents(tmp_path / "out")
    assert sorted(found) == sorted(f"{name}.png" for name in NAMES if name != "d/a")
    assert Image.open(tmp_path / "out/a.png").size == (45, 35)
    (tmp_path / "masks/e.png").rename(tmp_path / "masks/x.png")
    ended = maps_of(photos, tmp_path / "out", *flags)
    assert ended.status == 2 and "1 of 6 images have no mask: e.jpg (masks looked for in" in ended.err[-1]


def test_inputs_are_those_of_a_walk_in_the_order_of_their_paths(tmp_path):
    """Names of all lengths, with characters before and after the dot and the slash, in several folders."""
    rng = np.random.default_rng(0)
    letters = list("a.-_0~é脾 ")
    for _ in range(300):
        name = "".join(rng.choice(letters, rng.integers(1, 40))).strip(". ") or "x"
        folder = "/".join("".join(rng.choice(letters[:1] + letters[2:8], 9)) for _ in range(rng.integers(0, 3)))
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}{len(os.listdir(tmp_path / folder))}.png").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.md").touch()
    expected = sorted(path for path in tmp_path.rglob("*.png") if not path.name.startswith("."))
    found = find_inputs(tmp_path, recursive=True)
    assert [item.path for item in found] == expected
    assert [item.name for item in found] == [str(p.relative_to(tmp_path).with_name(p.stem)) for p in expected]
    assert found[-1].path == expected[-1] and [found[i].path for i in range(5)] == [item.path for item in found[:5]]
    shares = [find_inputs(tmp_path, recursive=True).share(Shard(number, 7)) for number in range(1, 8)]
    assert sorted(item.path for share in shares for item in share) == expected
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in rng.permutation([*map(str, expected[:9])])))
    assert [item.path for item in find_inputs(tmp_path / "list.txt")] == expected[:9]
