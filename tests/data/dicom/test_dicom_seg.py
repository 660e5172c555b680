"""DICOM SEG objects: reading, writing, and the grid of the image."""

import warnings
from functools import partial

import numpy as np
import pytest

from sam2unet.data.dicom import align_segmentation, open_dicom
from sam2unet.errors import UserError

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: pip install -e .[dicom_seg]")
pydicom = pytest.importorskip("pydicom")

from tests.dicom_files import (  # noqa: E402
    AXES,
    SHIPPED,
    TO_RAS,
    check_planes,
    move,
    save_big_endian,
    write_enhanced,
    write_segmentation,
    write_series,
)


def make_labels(shape):
    """Two labels. The first and the last slice along each axis are empty, and one slice in the middle."""
    labels = np.zeros(shape, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = 1 + (np.indices(shape)[:, 1:-1, 1:-1, 1:-1].sum(axis=0) > sum(shape) // 2)
    return labels


@pytest.mark.parametrize("name", ["feet first", "coronal", "oblique"])
def test_labels_go_to_a_seg_object_and_back(name, tmp_path):
    folder = write_series(tmp_path / "scan", AXES[name], count=7, shape=(7, 9))  # frames of 63 bits
    image = open_dicom(folder)
    labels = make_labels(image.shape)
    labels[(slice(None),) * image.stacked_axis + (slice(2, 5, 2),)] = 0
    write_segmentation(tmp_path / "seg.dcm", folder, labels, {1: "liver", 3: "脾\\臓"})
    segmentation = open_dicom(tmp_path / "seg.dcm")
    aligned = align_segmentation(segmentation, image)
    assert segmentation.modality == aligned.modality == "SEG" and segmentation.shape != image.shape == aligned.shape
    np.testing.assert_array_equal(aligned.read(), labels)
    check_planes(aligned, labels)
    check_planes(segmentation, segmentation.read())
    other = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [other.get_segment_description(n).segment_label for n in (1, 2, 3)] == ["liver", "label 2", "脾/臓"]
    volume = other.get_volume(combine_segments=True).to_patient_orientation("RAH")
    np.testing.assert_array_equal(segmentation.read(), volume.array)
    np.testing.assert_allclose(segmentation.affine, TO_RAS @ volume.affine, atol=1e-5)


def write_seg(path, folder, pixels, kind, segments=2, **values):
    """Writes a SEG object with highdicom from pixels in the order of the slices."""
    images = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda image: image.InstanceNumber)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "test", pydicom.sr.codedict.codes.DCM.ArtificialIntelligence, "1"
    )
    tissue = pydicom.sr.codedict.codes.SCT.Tissue
    describe = partial(
        highdicom.seg.SegmentDescription,
        segmented_property_category=tissue,
        segmented_property_type=tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    described = [describe(number, f"organ {number}") for number in range(1, segments + 1)]
    made = (highdicom.UID(), 1, highdicom.UID(), 1, "maker", "model", "1", "1")
    highdicom.seg.Segmentation(images, pixels, kind, described, *made, **values).save_as(path)


def test_fractional_and_labelmap_objects_hold_labels(tmp_path):
    folder = write_series(tmp_path / "scan", count=4)
    image, generator = open_dicom(folder), np.random.default_rng(0)
    first = np.round(generator.random((4, 24, 20)), 1)
    fractions = np.stack([first, np.where(first < 0.45, 0.9 - first, 0)], axis=-1)
    expected = np.where(first >= 0.5, 1, np.where(first < 0.45, 2 * (0.9 - first >= 0.5), 0))
    write_seg(tmp_path / "fractional.dcm", folder, fractions, "FRACTIONAL", max_fractional_value=100)
    write_seg(tmp_path / "labelmap.dcm", folder, expected.astype(np.uint8), "LABELMAP")
    for name in ("fractional", "labelmap"):
        values = align_segmentation(open_dicom(tmp_path / f"{name}.dcm"), image).read()
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values, expected[:, ::-1, ::-1].transpose(2, 1, 0), err_msg=name)


def test_overlapping_segments_and_other_grids_are_refused(tmp_path):
    folder = write_series(tmp_path / "scan")
    pixels = np.zeros((5, 24, 20, 2), np.uint8)
    pixels[1:3, 2:9, 2:9, 0], pixels[2:4, 5:9, 5:9, 1] = 1, 1
    write_seg(tmp_path / "seg.dcm", folder, pixels, "BINARY")
    segmentation = open_dicom(tmp_path / "seg.dcm")
    with pytest.raises(UserError, match=r"segments 1 \(organ 1\) and 2 \(organ 2\) overlap"):
        segmentation.read()
    others = {
        "spacing": (dict(gap=2), "20x24x3 voxels of 0.8, 0.5, 2.5 mm .* instead of 20x24x5 voxels of 0.8, 0.5, 2 mm"),
        "moved": (dict(change=lambda image, i: move(image, i, 0.3)), "has another grid"),
        "smaller": (dict(count=2), "reaches beyond"),
        "no position": (dict(change=lambda image, i: delattr(image, "PixelSpacing")), "has no position in mm"),
    }
    for name, (changes, message) in others.items():
        with pytest.raises(UserError, match=message):
            align_segmentation(segmentation, open_dicom(write_series(tmp_path / name, **changes)))


def test_seg_objects_of_multi_frame_and_big_endian_files_and_of_empty_labels(tmp_path, capfd):
    folder = write_series(tmp_path / "scan", count=4, change=lambda image, i: setattr(image, "PatientName", "anonym"))
    write_enhanced(tmp_path / "enhanced.dcm", folder)
    for path in folder.iterdir():
        save_big_endian(path)
    image = open_dicom(folder)
    for source in (folder, tmp_path / "enhanced.dcm"):
        for labels in (make_labels(image.shape), np.zeros(image.shape, np.uint8)):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # highdicom prints the name of the patient
                write_segmentation(tmp_path / "seg.dcm", source, labels, {1: "a", 2: "b"})
            np.testing.assert_array_equal(align_segmentation(open_dicom(tmp_path / "seg.dcm"), image).read(), labels)
    assert capfd.readouterr() == ("", "")
    folder = write_series(tmp_path / "anonymous", change=lambda image, i: delattr(image, "FrameOfReferenceUID"))
    with pytest.raises(UserError, match="cannot write a SEG object for .*: Source images have no Frame Of Reference"):
        write_segmentation(tmp_path / "x.dcm", folder, np.zeros((20, 24, 5), np.uint8), {})
    with pytest.raises(UserError, match="holds no images with positions"):
        write_segmentation(tmp_path / "x.dcm", SHIPPED / "JPEG2000.dcm", np.zeros((1, 1024, 256), np.uint8), {})


def test_the_shipped_seg_object_of_a_liver(tmp_path):
    image = pydicom.dcmread(SHIPPED / "liver_1frame.dcm")
    image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:1]  # it describes absent frames
    image.save_as(tmp_path / "liver.dcm")
    volume = open_dicom(tmp_path / "liver.dcm")
    assert volume.shape == (512, 512, 1) and volume.modality == "SEG"
    np.testing.assert_array_equal(volume.read()[:, :, 0] > 0, image.pixel_array[::-1, ::-1].T > 0)


def test_a_seg_object_of_a_tilted_gantry(tmp_path):
    folder = write_series(tmp_path / "scan", change=lambda image, i: move(image, i, sideways=1.5 * i))
    image = open_dicom(folder)
    labels = make_labels(image.shape)
    labels[:, :, 2] = 0
    write_segmentation(tmp_path / "seg.dcm", folder, labels, {1: "a", 2: "b"})
    np.testing.assert_array_equal(align_segmentation(open_dicom(tmp_path / "seg.dcm"), image).read(), labels)


def test_a_seg_object_may_omit_slices_and_their_distance(tmp_path):
    folder = write_series(tmp_path / "scan", count=7)
    pixels = np.zeros((7, 24, 20), np.uint8)
    pixels[1::3, 2:9, 2:7] = 1
    write_seg(tmp_path / "seg.dcm", folder, pixels, "BINARY", segments=1)
    for gap in (2.5, None, 7.5):
        content = pydicom.dcmread(tmp_path / "seg.dcm")
        measures = content.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = gap
        content.save_as(tmp_path / "seg.dcm")
        segmentation = open_dicom(tmp_path / "seg.dcm")
        if gap == 7.5:  # the file states a coarser grid
            with pytest.raises(UserError, match="has another grid"):
                align_segmentation(segmentation, open_dicom(folder))
        else:
            aligned = align_segmentation(segmentation, open_dicom(folder))
            np.testing.assert_array_equal(aligned.read(), pixels[:, ::-1, ::-1].transpose(2, 1, 0))
            check_planes(aligned, aligned.read())


@pytest.mark.filterwarnings("error")
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path):
    write_series(tmp_path / "scan", count=1)
    write_segmentation(tmp_path / "seg.dcm", tmp_path / "scan", np.ones((20, 24, 1), np.uint8), {})
    generator, path, refused = np.random.default_rng(0), tmp_path / "damaged.dcm", 0
    for source in (*(tmp_path / "scan").iterdir(), tmp_path / "seg.dcm", SHIPPED / "MR_small_RLE.dcm"):
        content = np.frombuffer(source.read_bytes(), np.uint8)
        for _ in range(30):
            damaged = content.copy()
            damaged[generator.integers(132, min(4000, content.size), 8)] = generator.integers(0, 256, 8)
            path.write_bytes(damaged[: generator.integers(200, 2 * content.size)].tobytes())
            try:
                open_dicom(path).read()
            except UserError as e:
                assert "\n" not in str(e)
                refused += 1
    assert 30 < refused < 90
