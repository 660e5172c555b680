"""DICOM images: geometry, grey values, colours, and refusals. The images are those that pydicom ships."""

import gzip
import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sam2unet.data.dicom import is_dicom, open_dicom
from sam2unet.errors import UserError

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: pip install -e .[dicom_seg]")
pydicom = pytest.importorskip("pydicom")

from tests import dicom_files  # noqa: E402
from tests.dicom_files import AXES, SHIPPED, check_planes, move, read_stored, save_big_endian, write_enhanced  # noqa: E402


def set_values(image, index, values):
    for name, value in values.items():
        setattr(image, name, value)


@pytest.mark.parametrize("name", AXES)
def test_a_series_has_the_geometry_and_values_of_highdicom(name, tmp_path):
    folder = dicom_files.write_series(tmp_path / "scan", AXES[name])
    volume = open_dicom(folder)
    expected = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in folder.iterdir()])
    expected = expected.to_patient_orientation("RAH")
    np.testing.assert_allclose(volume.affine, dicom_files.TO_RAS @ expected.affine, atol=1e-5)
    assert volume.shape == expected.array.shape and volume.modality == "CT" and not volume.is_colour
    check_planes(volume, expected.array)
    np.testing.assert_array_equal(volume.read(), expected.array)
    assert expected.array.min() < -800  # Hounsfield units


def test_a_plane_needs_only_its_own_file(tmp_path):
    folder = dicom_files.write_series(tmp_path / "scan")
    volume, values = open_dicom(folder), open_dicom(folder).read()
    for path in folder.iterdir():
        if pydicom.dcmread(path).InstanceNumber != 4:
            path.unlink()
    np.testing.assert_array_equal(volume.read_plane(2, 3), values[:, :, 3])
    with pytest.raises(UserError, match="cannot read"):
        volume.read_plane(2, 2)


def test_big_endian_series_and_multi_frame_files_hold_the_same_volume(tmp_path):
    folder = dicom_files.write_series(tmp_path / "scan", AXES["coronal"], spacing=(1.5, 0.25))
    volume = open_dicom(folder)
    values = volume.read()
    write_enhanced(tmp_path / "enhanced.dcm", folder)
    for path in folder.iterdir():
        save_big_endian(path)
    for other in (open_dicom(folder), open_dicom(tmp_path / "enhanced.dcm")):
        np.testing.assert_array_equal(other.affine, volume.affine)
        check_planes(other, values)
        np.testing.assert_array_equal(other.read(), values)


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_files_of_scanners_have_the_geometry_of_nibabel(tmp_path):
    from nibabel.nicom import dicomwrappers

    folder = Path(nibabel.__file__).parent / "nicom/tests/data"
    (tmp_path / "philips.dcm").write_bytes(gzip.decompress((folder / "philips_mprage.dcm.gz").read_bytes()))
    for path, shape in ((tmp_path / "philips.dcm", (176, 256, 256)), (folder / "decimal_rescale.dcm", (128, 96, 1))):
        wrapper, volume = dicomwrappers.wrapper_from_file(path), open_dicom(path)
        grid = np.empty((*wrapper.image_shape, 1)[:3], np.uint8)
        expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(grid, dicom_files.TO_RAS @ wrapper.affine))
        assert volume.shape == expected.shape == shape
        np.testing.assert_allclose(
            volume.affine, expected.affine, atol=2e-3
        )  # nibabel takes one step, we take the positions
    with pytest.raises(UserError, match="is a mosaic: one image that holds many slices"):
        open_dicom(folder / "0.dcm")


def test_each_file_has_its_own_scale(tmp_path):
    def change(image, index):
        image.RescaleSlope, image.RescaleIntercept = 0.5 + index, -10 * index

    folder = dicom_files.write_series(tmp_path / "scan", change=change)
    write_enhanced(tmp_path / "enhanced.dcm", folder)
    for path in (folder, tmp_path / "enhanced.dcm"):
        values = open_dicom(path).read()
        for index in range(5):
            stored = read_stored()[10 + 5 * index :, 7 * index :][:24, :20]
            expected = stored * (0.5 + index) - 10 * index
            np.testing.assert_allclose(values[:, :, index], expected[::-1, ::-1].T, rtol=1e-6)


def store_floats(image, values):
    """Makes a parametric map of the image."""
    del image.PixelData, image.PixelRepresentation, image.RescaleSlope, image.RescaleIntercept
    image.FloatPixelData, image.BitsAllocated = values.astype(np.float32).tobytes(), 32


def test_float_pixels_are_read(tmp_path):
    maps = np.random.default_rng(0).random((5, 24, 20), np.float32)
    folder = dicom_files.write_series(tmp_path / "scan", change=lambda image, i: store_floats(image, maps[i]))
    np.testing.assert_array_equal(open_dicom(folder).read(), maps[:, ::-1, ::-1].transpose(2, 1, 0))


def test_without_a_scale_whole_numbers_stay_whole(tmp_path):
    stored = pydicom.dcmread(SHIPPED / "MR_small.dcm").pixel_array
    for name in ("MR_small", "MR_small_bigendian", "MR_small_implicit", "MR_small_RLE", "MR_small_jp2klossless"):
        volume = open_dicom(SHIPPED / f"{name}.dcm")
        assert volume.modality == "MR" and volume.read().dtype == np.int16
        np.testing.assert_array_equal(volume.read()[:, :, 0], stored[::-1, ::-1].T)
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [0.3125, 0.3125, 0.8])


@pytest.mark.parametrize(("modality", "signed"), [("CR", False), ("MG", True), ("CT", False)])
def test_monochrome1_is_inverted_unless_the_numbers_are_measured(modality, signed, tmp_path):
    image = dicom_files.read_slice()
    stored = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128) % 4096
    image.PhotometricInterpretation, image.Modality, image.PixelData = "MONOCHROME1", modality, stored.tobytes()
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, int(signed)
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.save_as(tmp_path / "image.dcm")
    numbers = np.where(stored >= 2048, stored.astype(int) - 4096, stored) if signed else stored.astype(int)
    expected = numbers if modality == "CT" else (-1 if signed else 4095) - numbers
    np.testing.assert_array_equal(open_dicom(tmp_path / "image.dcm").read()[:, :, 0], expected[::-1, ::-1].T)


def test_colours_become_rgb_in_8_bits():
    bars = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255), (0, 0, 0)]
    bars = np.array(bars)
    for name in ("SC_rgb_rle_16bit", "SC_rgb_rle_32bit_2frame", "SC_rgb_jpeg_dcmtk", "SC_ybr_full_422_uncompressed"):
        volume = open_dicom(SHIPPED / f"{name}.dcm")
        plane = volume.read_plane(0, volume.shape[0] - 1)
        assert volume.is_colour and volume.affine is None and plane.shape == (100, 100, 3) and plane.dtype == np.uint8
        expected = 255 - bars if name.endswith("2frame") else bars  # its second frame is the negative
        assert np.abs(plane[5:75:10, 50].astype(int) - expected).max() <= 5, name  # JPEG and YBR round
    image = pydicom.dcmread(SHIPPED / "examples_palette.dcm")
    names = [f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")]
    tables = np.stack([np.frombuffer(image[name].value, "<u2") for name in names], axis=1)
    plane = open_dicom(SHIPPED / "examples_palette.dcm").read_plane(0, 0)
    np.testing.assert_array_equal(plane, tables[image.pixel_array] >> 8)


def test_images_without_position_are_sorted_by_their_number(tmp_path):
    def change(image, index):
        del image.ImagePositionPatient

    volume = open_dicom(dicom_files.write_series(tmp_path / "scan", change=change))
    assert volume.affine is None and volume.shape == (5, 24, 20)
    np.testing.assert_array_equal(volume.read_plane(0, 3), read_stored()[25:49, 21:41] - 1024.0)
    check_planes(volume, volume.read())


def test_a_single_slice_takes_its_thickness_from_the_header(tmp_path):
    for thickness, gap, expected in ((3, 4, 3), (None, 4, 4), (0, None, 1)):
        change = partial(set_values, values=dict(SliceThickness=thickness, SpacingBetweenSlices=gap))
        volume = open_dicom(dicom_files.write_series(tmp_path / f"{expected}", count=1, change=change))
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [0.8, 0.5, expected])


def test_a_tilted_gantry_keeps_its_shear(tmp_path):
    def change(image, index):
        image.ImagePositionPatient = [-10, 20 + index * 1.5, 30 + index * 2.5]

    volume = open_dicom(dicom_files.write_series(tmp_path / "scan", change=change))
    np.testing.assert_allclose(volume.affine[:3, 2], [0, -1.5, 2.5])


def test_files_are_recognised_by_content(tmp_path):
    folder = dicom_files.write_series(tmp_path / "scan")
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"1.2.{number}")  # names that are identifiers
    (folder / ".hidden").write_text("x")
    (folder / "notes.txt").write_text("x")
    assert is_dicom(folder) and is_dicom(folder / "1.2.0") and open_dicom(folder).shape == (20, 24, 5)
    assert not is_dicom(folder / "notes.txt") and not is_dicom(tmp_path) and not is_dicom(tmp_path / "absent")


BAD_SERIES = {
    "missing slice": (
        lambda image, i: move(image, i + (i > 2)),
        r"from IM\d+.dcm to IM\d+.dcm are \(0, 0, 5\) mm, mos",
    ),
    "uneven": (lambda image, i: move(image, i + 0.02 * (i == 4)), r"are \(0, 0, 2.55\) mm, mostly \(0, 0, 2.5\) mm"),
    "shifted": (lambda image, i: move(image, i, 2 * (i > 2)), r"are \(2, 0, 2.5\) mm, mostly \(0, 0, 2.5\) mm"),
    "4D": (lambda image, i: move(image, i % 3), "have the same position; a volume has three axes: split a 4D"),
    "localizer": (
        lambda image, i: setattr(image, "ImageOrientationPatient", [*AXES["coronal" if i == 2 else "axial"]]),
        "have different orientations or pixel spacings",
    ),
    "two series": (
        lambda image, i: set_values(
            image, i, {"SeriesInstanceUID": f"1.2.{i // 4}", "SeriesDescription": f"T{i // 4}"}
        ),
        r"holds 2 series: T0 \(4 files\), T1 \(1 files\); put each series into its own folder",
    ),
    "sizes": (
        lambda image, i: setattr(image, "Rows", 24 - i // 4),
        r"Rows is 24 in IM0394.dcm, 23 in IM0430.dcm;",
    ),
    "no position": (lambda image, i: i == 3 and delattr(image, "ImagePositionPatient"), "has no position, orientation"),
    "no type": (lambda image, i: delattr(image, "PhotometricInterpretation"), "has 1 samples of None in a pixel"),
    "infinite": (
        lambda image, i: store_floats(image, np.where(np.eye(24, 20), np.inf, i)),
        "values that are not finite",
    ),
    "huge": (lambda image, i: setattr(image, "RescaleSlope", "1e300"), "RescaleSlope is 1e300"),
    "no pixels": (lambda image, i: delattr(image, "PixelData"), "holds no pixels; export it again"),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_series_that_are_not_one_volume_are_refused_in_one_line(name, tmp_path):
    change, message = BAD_SERIES[name]
    folder = dicom_files.write_series(tmp_path / "scan", change=change)
    with pytest.raises(UserError, match=message) as caught:
        open_dicom(folder).read()
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test-SR.dcm", "is not an image but Comprehensive SR Storage"),
        ("rtplan.dcm", "is not an image but RT Plan Storage"),
        ("rtdose.dcm", "is not an image but RT Dose Storage"),
        ("dicomdirtests/DICOMDIR", "is not an image but Media Storage Directory Storage"),
        ("dicomdirtests", "holds no DICOM files"),
        ("no_meta.dcm", "is not a DICOM file: it has no DICM"),
        ("image_dfl.dcm", "has the transfer syntax Deflated Explicit VR Little Endian"),
        ("MR_truncated.dcm", "cannot reshape array of size 4065"),
        ("SC_rgb_jpeg_gdcm.dcm", r"compressed as JPEG Lossless, .*: pip install pylibjpeg pylibjpeg-libjpeg$"),
        ("JPEG-lossy.dcm", r"\(JPEG Extended \(Process 2 and 4\)\): .*: pip install pylibjpeg pylibjpeg-libjpeg$"),
        ("absent.dcm", "no such file"),
    ],
)
def test_files_that_hold_no_image_or_need_a_decoder_are_refused(name, message, capfd):
    if "pip install" in message and "pylibjpeg" in sys.modules:
        pytest.skip("the decoder is installed")
    with pytest.raises(UserError, match=message) as caught:
        open_dicom(SHIPPED / name).read()
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_without_pydicom_the_advice_is_to_install_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r'needs pydicom, which is not installed: pip install "sam2unet\[medical\]"'):
        open_dicom(SHIPPED / "CT_small.dcm")


def test_a_header_that_claims_a_huge_image_is_refused(tmp_path):
    for values in ({"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1, "Rows": 1, "Columns": 1}):
        folder = dicom_files.write_series(
            tmp_path / str(len(values)), count=1, change=partial(set_values, values=values)
        )
        with pytest.raises(UserError, match="voxels; wanted 1 to 2,147,483,648"):
            open_dicom(folder)
