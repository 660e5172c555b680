"""Slices of volumes: their order, their orientation, their window, and volumes that are written for them."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.images.masks import read_mask
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import match
from sam2unet.data.volumes import open as volumes
from sam2unet.data.volumes.slices import list_slices
from sam2unet.data.volumes.write import encode_volume
from sam2unet.data.whole_volumes import read_whole
from sam2unet.errors import UserError
from sam2unet.slice_view import SliceView
from tests.conftest import save

nibabel = pytest.importorskip("nibabel")
SHIPPED = Path(nibabel.__file__).parent / "tests/data"
ORIENTATIONS = [
    np.column_stack([order, signs])
    for order, signs in zip(itertools.cycle(itertools.permutations(range(3))), itertools.product((1, -1), repeat=3))
]
AFFINE = np.diag([0.7, 0.7, 5, 1])
FULL = SliceView(window="full")


def scan(shape=(7, 6, 4)):
    """Whole numbers, all different, that grow to the right (1), to anterior (7) and to superior (42)."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape, order="F")


def write_nifti(path, values, affine=AFFINE, turns=None, change=lambda image: image):
    image = change(nibabel.Nifti1Image(values, affine))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image if turns is None else image.as_reoriented(turns), path)
    return path


def write_volume(path, values, source):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_volume(path, values, source))


def grey(source):
    return np.asarray(read_image(source))[..., 0]


@pytest.mark.parametrize("turns", ORIENTATIONS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_slices_look_the_same_whatever_the_orientation_of_the_file(ending, turns, tmp_path):
    path = write_nifti(tmp_path / f"a{ending}", scan(), turns=turns)
    slices = list_slices(path, FULL)
    assert [part.stem for part in slices] == ["a/0000", "a/0001", "a/0002", "a/0003"]  # along the 5 mm
    values = scan()
    for index, part in enumerate(slices):
        picture = grey(part)
        # Radiologists' view: the first row is anterior, the first column is the patient's right side.
        expected = np.rint(values[::-1, ::-1, index].T * (255 / values.max()))
        assert np.array_equal(picture, expected)
    for axis in range(3):
        assert len(list_slices(path, SliceView(axis, "full"))) == values.shape[axis]
        middle = list_slices(path, SliceView(axis, "full"))[1]
        plane = np.take(values, 1, axis)[::-1, ::-1].T
        assert np.array_equal(grey(middle), np.rint(plane * (255 / values.max())))


@pytest.mark.parametrize("turns", ORIENTATIONS)
def test_a_written_volume_lies_on_its_scan(turns, tmp_path):
    source = write_nifti(tmp_path / "a.nii.gz", scan(), turns=turns)
    labels = (scan() > 50).astype(np.uint8)
    write_volume(tmp_path / "out/a.nii.gz", labels, source)
    ours, theirs = nibabel.load(tmp_path / "out/a.nii.gz"), nibabel.load(source)
    assert ours.shape == theirs.shape and np.array_equal(ours.affine, theirs.affine)
    assert ours.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj) > 50)


@pytest.mark.parametrize("name", ["anatomical.nii", "example4d.nii.gz", "standard.nii.gz", "functional.nii"])
def test_shipped_files_are_read_as_nibabel_reads_them(name, tmp_path):
    image = nibabel.load(SHIPPED / name)
    if image.ndim == 4:
        with pytest.raises(UserError, match=r"has 4 axes \(\d+x\d+x\d+x\d+\); wanted a volume with three; split it"):
            list_slices(SHIPPED / name, FULL)
        image = image.slicer[..., :1]  # a further axis of length 1 stays in what is written
    path = tmp_path / "a.nii.gz"
    nibabel.save(image, path)
    values = nibabel.as_closest_canonical(image.slicer[..., 0] if image.ndim == 4 else image).get_fdata()
    low, high = values.min(), values.max()
    for part in list_slices(path, SliceView(2, "full"))[::5]:
        expected = np.rint((values[::-1, ::-1, part.index].T - low) * (255 / (high - low)))
        assert np.abs(grey(part) - expected).max() <= 1 and grey(part).dtype == np.uint8
    write_volume(tmp_path / "b.nii.gz", np.zeros(values.shape, np.uint8), path)
    written = nibabel.load(tmp_path / "b.nii.gz")
    assert written.shape == image.shape and np.allclose(written.affine, image.affine)


def test_big_endian_and_scaled_whole_numbers_become_the_numbers_that_they_stand_for(tmp_path):
    def scale(image):
        image.header.set_slope_inter(2, -1000)
        return image

    big = nibabel.Nifti1Header(endianness=">")
    stored = scan().astype(">i2")
    path = write_nifti(tmp_path / "a.nii", stored, change=lambda _: scale(nibabel.Nifti1Image(stored, AFFINE, big)))
    values = nibabel.load(path).get_fdata()
    low, high = -900, -700
    expected = np.rint(((values - low) * (255 / (high - low))).clip(0, 255))
    assert 0 < (expected == 0).sum() and (expected == 255).sum() > 0
    for part in list_slices(path, SliceView(window="-800,200")):
        assert np.array_equal(grey(part), expected[::-1, ::-1, part.index].T)


def test_windows_are_those_of_the_whole_volume(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(100, 40, (8, 9, 5)).astype(np.float32) * np.arange(1, 6)  # later slices are brighter
    path = write_nifti(tmp_path / "a.nii.gz", values)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.rint(((values.astype(float) - low) * (255 / (high - low))).clip(0, 255))
    for window in (None, "percentile"):
        for part in list_slices(path, SliceView(window=window)):
            assert np.array_equal(grey(part), expected[::-1, ::-1, part.index].T)
    lung = list_slices(path, SliceView(window="lung"))[0]  # level -600, width 1500
    assert np.array_equal(grey(lung), np.rint(((values[::-1, ::-1, 0].T + 1350.0) * (255 / 1500)).clip(0, 255)))


@pytest.mark.parametrize("window", ["liver", "40", "40,0", "40,-5", "nan,10", "1,2,3", "40;400", "inf,3", ".,."])
def test_a_wrong_window_is_refused(window):
    with pytest.raises(UserError, match=f"window is {window}; wanted abdomen, lung, brain, bone, percentile, full"):
        SliceView(window=window)


def test_the_channels_of_a_slice_with_context_are_its_neighbours(tmp_path):
    path = write_nifti(tmp_path / "a.nii", scan())
    plain, context = (list_slices(path, SliceView(window="full", context=context)) for context in (0, 1))
    greys = [grey(part) for part in plain]
    for index, before, after in ((0, 0, 1), (1, 0, 2), (3, 2, 3)):
        picture = np.asarray(read_image(context[index]))
        assert np.array_equal(picture, np.stack([greys[before], greys[index], greys[after]], -1))


def count_read_bytes():
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".npy"])
def test_a_slice_is_read_without_the_rest_of_its_volume(ending, tmp_path):
    pytest.importorskip("indexed_gzip")
    values = np.random.default_rng(0).integers(0, 1000, (200, 200, 120)).astype(np.int16)
    path = tmp_path / f"a{ending}"
    np.save(path, np.moveaxis(values, -1, 0)) if ending == ".npy" else write_nifti(path, values)
    slices = list_slices(path, SliceView(window="40,400"))
    grey(slices[-1])  # a packed file makes its index
    before = count_read_bytes()
    for part in slices[60:70]:
        grey(part)
    assert count_read_bytes() - before < path.stat().st_size  # of ten slices
    assert volumes.open_volume(path) is volumes.open_volume(path)


def test_pages_and_arrays_are_volumes_too(tmp_path):
    values = (scan((5, 40, 30)).astype(np.int64) % 1000).astype(np.uint16)
    np.save(tmp_path / "a.npy", values)
    first, *others = (Image.fromarray(page) for page in values)
    first.save(tmp_path / "b.tif", save_all=True, append_images=others)
    for name in ("a.npy", "b.tif"):
        slices = list_slices(tmp_path / name, FULL)
        assert len(slices) == 5
        for part in slices:
            assert np.array_equal(grey(part), np.rint(values[part.index] * (255 / values.max())))
        labels = (values > 500).astype(np.uint8)
        write_volume(tmp_path / "out" / name, labels, tmp_path / name)
        assert np.array_equal(volumes.read_volume(tmp_path / "out" / name).values, labels)
    first.save(tmp_path / "one.tif")
    assert list_slices(tmp_path / "one.tif", SliceView()) == [tmp_path / "one.tif"]


def test_a_picture_with_16_bits_takes_the_window_and_others_stay(tmp_path):
    values = np.random.default_rng(0).integers(0, 4000, (30, 40)).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        (part,) = list_slices(tmp_path / name, SliceView(window="2000,1000"))
        assert (part.stem, part.name) == ("a", name)
        assert np.array_equal(grey(part), np.rint(((values - 1500.0) * 0.255).clip(0, 255)))
        assert np.array_equal(grey(tmp_path / name), np.rint(values / 257))  # without a window, as before
    save(tmp_path / "b.png", (values / 16).astype(np.uint8))
    assert list_slices(tmp_path / "b.png", SliceView(window="abdomen")) == [tmp_path / "b.png"]


def test_masks_follow_their_image_and_values_count_for_the_whole_volume(tmp_path):
    write_nifti(tmp_path / "images/a.nii.gz", scan())
    labels = (scan() > 80).astype(np.uint8)
    write_nifti(tmp_path / "masks/a.nii.gz", labels)
    pairs = match(tmp_path / "images", tmp_path / "masks", SliceView(axis=0))
    assert [pair.image.stem for pair in pairs] == [f"a/{index:04d}" for index in range(7)]
    for index, pair in enumerate(pairs):
        assert np.array_equal(np.asarray(read_mask(pair.mask)), 255 * labels[index][::-1, ::-1].T)
    labels[3] *= 2
    write_nifti(tmp_path / "masks/a.nii.gz", labels)  # only slice 3 has another value, but 1 is no white any more
    with pytest.raises(UserError, match=r"a.nii.gz is not a 0/255 mask \(values found: 0, 1\)"):
        read_mask(pairs[0].mask)
    assert np.asarray(read_mask(pairs[3].mask, (2,))).any() and not np.asarray(read_mask(pairs[2].mask, (2,))).any()


@pytest.mark.parametrize(
    "mask, affine, message",
    [
        (scan((7, 6, 3)), AFFINE, "has 7x6x4 voxels, its mask 7x6x3"),
        (scan(), np.diag([0.7, 0.7, 2, 1]), "has another affine than"),
    ],
)
def test_a_mask_of_another_place_is_refused(mask, affine, message, tmp_path):
    write_nifti(tmp_path / "images/a.nii.gz", scan())
    write_nifti(tmp_path / "masks/a.nii.gz", mask, affine)
    with pytest.raises(UserError, match=message):
        match(tmp_path / "images", tmp_path / "masks")


class CountedVolume:
    """A volume that counts how often it is read."""

    count = 0

    def read(self):
        self.count += 1
        time.sleep(0.05)  # the other threads ask for it meanwhile
        return np.zeros((2, 2, 2))


def test_threads_read_a_whole_volume_once():
    volume = CountedVolume()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_whole(volume), range(4)))
    assert volume.count == 1


def test_of_pages_with_colours_the_first_is_read_and_a_line_says_so(tmp_path, capsys):
    pages = [Image.new("RGB", (8, 6), (value, 0, 0)) for value in (10, 20)]
    for name in ("a.tif", "b.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert list_slices(tmp_path / name, SliceView()) == [tmp_path / name]
    assert (np.asarray(read_image(tmp_path / "a.tif")) == (10, 0, 0)).all()
    words = "has TIFF files with several colour pages; only the first page of each is read"
    assert capsys.readouterr().err == f"warning: {tmp_path} {words}\n"


def test_a_mask_with_three_samples_is_grey_or_refused(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    image = pydicom.dcmread(Path(pydicom.__file__).parent / "data/test_files/MR_small.dcm")
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    for color in ((255, 255, 255), (255, 0, 0)):
        pixels = np.zeros((image.Rows, image.Columns, 3), np.uint8)
        pixels[10:30, 20:50] = color
        image.PixelData = pixels.tobytes()
        path = tmp_path / f"{color[1]}.dcm"
        image.save_as(path)
        (mask,) = list_slices(path, SliceView())
        if color[1]:
            assert np.array_equal(np.asarray(read_mask(mask)), pixels[..., 0])  # it lies as it is stored
        else:
            with pytest.raises(UserError, match="0.dcm is not a 0/255 mask .it has colours"):
                read_mask(mask)
