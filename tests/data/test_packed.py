"""Packed sequences give back what was packed."""

import pickle
from pathlib import Path

import pytest

from sam2unet.data.packed import pack_sources, pack_texts
from sam2unet.data.volumes.slices import Slice
from sam2unet.slice_view import SliceView


def test_texts_come_back_in_order():
    texts = ["a", "", "grün.png", "\udcff.png", *(f"image {i}" for i in range(70_000))]
    packed = pack_texts(texts)
    assert len(packed) == len(texts)
    assert list(packed[:10]) == texts[:10]
    assert [packed[i] for i in (65_535, 65_536, 65_537, -1)] == [texts[i] for i in (65_535, 65_536, 65_537, -1)]
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_sources_come_back_equal():
    part = Slice(Path("scans/a.nii.gz"), 3, SliceView(2, "abdomen"), grid=Path("b.nii"))
    sources = [Path("folder/a.png"), part, Path("/b/\udcff.jpg")]
    packed = pack_sources(sources)
    assert list(packed) == sources
    assert list(pickle.loads(pickle.dumps(packed))) == sources


def test_nothing_can_be_packed():
    assert list(pack_texts([])) == []
