"""sam2unet check on pictures with more than 8 bits and on volumes of one slice: it agrees with training."""

from pathlib import Path

import numpy as np
import pytest

from sam2unet.commands import check_data
from sam2unet.data.checks.audit import audit_folders
from sam2unet.data.checks.check import check_pairs
from sam2unet.data.checks.findings import PROBLEM
from sam2unet.data.pairs import match
from sam2unet.slice_view import SliceView
from tests.conftest import save


def test_images_and_masks_with_16_bits_beside_others(run_main, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 30, 40)).astype(np.uint16)
    for index, (name, high) in enumerate((("a", 257), ("b", 1), ("c", 257), ("d", 1))):
        dtype = np.uint16 if high > 1 else np.uint8
        mask = np.zeros((30, 40), dtype)
        mask[5:20, 10:30] = 255 * high  # all masks have the same share of foreground
        save(tmp_path / f"images/{name}.png", (noise[index] * high).astype(dtype))
        save(tmp_path / f"masks/{name}.png", mask)
    folders = tmp_path / "images", tmp_path / "masks"
    check_pairs(match(*folders, SliceView(window="full")))
    status, out, err = run_main(check_data, *folders, "--window", "full", "--save_path", tmp_path / "out")
    assert (status, err) == (0, ""), out
    assert "pairs            4" in out and "problems 0, warnings 0: fit to train on" in out
    assert (tmp_path / "out/contact_sheet.png").is_file()


def test_an_x_ray_and_a_png_mask_are_a_pair(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    source = Path(pydicom.__file__).parent / "data/test_files/MR_small.dcm"
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / f"images/{name}.dcm").write_bytes(source.read_bytes())
        mask = np.zeros((64, 64), np.uint8)
        mask[10:30, 20:40] = 255
        save(tmp_path / f"masks/{name}.png", mask)
    folders = tmp_path / "images", tmp_path / "masks"
    pairs = match(*folders)
    check_pairs(pairs)
    audit = audit_folders(*folders)
    assert [pair.mask for pair in audit.pairs] == [pair.mask for pair in pairs]
    assert [finding.title for finding in audit.findings if finding.level == PROBLEM] == []
    (tmp_path / "masks/b.png").unlink()
    (missing,) = (finding for finding in audit_folders(*folders).findings if finding.level == PROBLEM)
    assert (missing.title, missing.text[:6]) == ("without mask", "1 of 2")


def test_a_damaged_volume_is_a_finding_and_the_others_are_read(tmp_path):
    for kind, values in (("images", np.arange(360, dtype=np.uint8)), ("masks", np.arange(360) % 2 * np.uint8(255))):
        (tmp_path / kind).mkdir()
        for name in "abc":
            np.save(tmp_path / kind / f"{name}.npy", values.astype(np.uint8).reshape(3, 10, 12))
    for path in (tmp_path / "images/b.npy", tmp_path / "masks/c.npy"):
        path.write_bytes(path.read_bytes()[:100])
    audit = audit_folders(tmp_path / "images", tmp_path / "masks")
    assert [pair.image.stem for pair in audit.pairs] == ["a/0000", "a/0001", "a/0002"]
    problems = [finding.text for finding in audit.findings if finding.level == PROBLEM]
    for path in ("images/b.npy", "masks/c.npy"):
        assert any(f"cannot read {tmp_path / path}: not a volume or damaged" in text for text in problems)
