"""The cache of resized pairs: which file it is, and how much memory there is for it."""

import zlib

import pytest

from sam2unet.data.pairs import Pair, match
from sam2unet.data.volumes.slices import Slice
from sam2unet.errors import UserError
from sam2unet.masks.cache import compute_cache_key, free_memory, open_cache
from sam2unet.slice_view import SliceView
from tests.conftest import write_pairs


@pytest.mark.parametrize("factor", [3, 7, 1000003])
def test_the_key_does_not_depend_on_hashes_which_differ_from_run_to_run(factor, monkeypatch, tmp_path):
    """Volumes can have slices along different axes. Python draws the hashes of texts anew for each process."""
    path = tmp_path / "a.npy"
    path.touch()
    pairs = [Pair(Slice(path, 0, SliceView(number % 3, f"{number},9")), path) for number in range(12)]
    key = compute_cache_key(pairs, 64, None)
    monkeypatch.setattr(SliceView, "__hash__", lambda view: factor * zlib.crc32(repr(view).encode()))
    assert compute_cache_key(pairs, 64, None) == key


def test_a_full_disk_is_not_answered_with_the_disk(tmp_path):
    folder = tmp_path / "RAM"
    folder.mkdir()
    with pytest.raises(UserError, match="give --cache off$"):
        open_cache("disk", match(*write_pairs(tmp_path, count=1)), 500_000, None, folder)


def test_files_in_the_page_cache_of_a_container_are_free_memory(tmp_path):
    assert free_memory(tmp_path) > 10**8  # without the files of a control group
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("90000000\n")
    (tmp_path / "memory.stat").write_text("anon 30000000\nfile 60000000\ninactive_file 50000000\nactive_file 9000000\n")
    assert free_memory(tmp_path) == 69_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 10**8
