"""From a folder of scans to a file of labels for each scan: train.py, test.py, and the scripts around them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sam2unet
from sam2unet.data.images.reading import read_image
from sam2unet.data.volumes.slices import list_slices
from sam2unet.families.table import find_family_of
from sam2unet.masks.files.jobs import PredictFiles, find_jobs
from sam2unet.masks.files.volume_maps import VolumeMaps
from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.masks.prediction.probability import stretch_range
from sam2unet.masks.task import MaskTask
from sam2unet.recipe import Recipe
from sam2unet.runtime.shards import Shard
from sam2unet.slice_view import SliceView
from sam2unet.task import RunData
from tests.conftest import load_script, save

nibabel = pytest.importorskip("nibabel")
SHIPPED = Path(nibabel.__file__).parent / "tests/data/anatomical.nii"  # 33 x 41 x 25, to the left: L A S


def write_case(folder, name, shift=0, labels=None):
    """A real scan, moved; its bright part is the mask. Of both the slices are 3 mm apart."""
    image = nibabel.load(SHIPPED)
    values = np.roll(np.asarray(image.dataobj), shift, axis=0)[:, :, 8:16]
    affine = image.affine @ np.diag([1, 1, 1.5, 1])
    mask = (values > np.quantile(values, 0.8)).astype(np.uint8) if labels is None else labels(values)
    for kind, array in (("images", values), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")
    return affine


@pytest.fixture
def scans(tmp_path):
    for shift, name in enumerate(("a", "b.1", "c")):
        write_case(tmp_path / "scans", name, 3 * shift)
    return tmp_path / "scans"


@pytest.fixture
def train(train_py, tmp_path):
    def call(folder, *flags):
        data = ["--train_image_path", folder / "images", "--train_mask_path", folder / "masks"]
        size = ["--encoder", "micro", "--size", 64, "--epoch", 1, "--batch_size", 8, "--workers", 0, "--device", "cpu"]
        return train_py(*data, *size, "--save_path", tmp_path / "run", *flags)

    return call


def read_numbers(path):
    return np.array([line.split(",")[3:] for line in path.read_text().splitlines()[1:]], float)


def load(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_scans_are_trained_on_predicted_and_scored_per_case(train, test_py, eval_py, scans, tmp_path):
    ended = train(scans, "--window", "percentile", "--context", 1, "--val_fraction", 0.3)
    assert ended.status == 0, ended.err
    assert "data: 16 pairs" in ended.out  # two cases; the third one is for validation, as a whole
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert (recipe["window"], recipe["context"]) == ("percentile", 1)

    checkpoint, out = tmp_path / "run/best.pth", tmp_path / "out"
    flags = ["--save_slices", "--save_prob", "float32", "--overlay", "--uncertainty", "--batch_size", 3]
    ended = test_py("--checkpoint", checkpoint, "--test_image_path", scans / "images", "--save_path", out, *flags)
    assert ended.status == 0, ended.err
    assert {path.name for path in out.glob("*.nii.gz")} == {"a.nii.gz", "b.1.nii.gz", "c.nii.gz"}
    assert len(list(out.glob("overlay/b.1/*.jpg"))) == len(list(out.glob("uncertainty/c/*.png"))) == 8
    scan, labels = nibabel.load(scans / "images/b.1.nii.gz"), nibabel.load(out / "b.1.nii.gz")
    assert labels.shape == scan.shape and np.array_equal(labels.affine, scan.affine)
    assert labels.get_data_dtype() == np.uint8 and set(np.unique(load(out / "b.1.nii.gz"))) <= {0, 1}

    # The same numbers from Python, for the same slices: with the neighbours, and the window of the training.
    model = sam2unet.load_model(checkpoint, device="cpu")
    maps = dict(sam2unet.predict_many(model, scans / "images", minmax=False, batch_size=3))
    assert len(maps) == 24
    probability = load(out / "prob/b.1.nii.gz")
    assert probability.dtype == np.float32
    for index in (0, 5):
        ours = maps[f"b.1/{index:04d}"]
        np.testing.assert_allclose(probability[:, ::-1, index].T, ours, atol=1e-5)  # the file runs to the left: L A S
        clear = np.abs(ours - 0.5) > 0.003  # elsewhere, rounding decides
        assert np.array_equal((load(out / "b.1.nii.gz")[:, ::-1, index].T == 1)[clear], (ours > 0.5)[clear])
        grey = np.asarray(Image.open(out / f"slices/b.1/{index:04d}.png"))
        assert np.abs(grey - ours * 255).max() <= 1  # not stretched
    picture = read_image(list_slices(scans / "images/b.1.nii.gz", SliceView(None, "percentile", 1))[5])
    np.testing.assert_allclose(sam2unet.predict(model, picture, minmax=False), maps["b.1/0005"], atol=1e-5)

    folders = ["--dataset_name", "MR", "--pred_path", out, "--gt_path", scans / "masks", "--workers", 1]
    ended = eval_py(*folders, "--protocol", "medical", "--save_dir", tmp_path / "scores")
    assert ended.status == 0, ended.err
    rows = (tmp_path / "scores/per_image.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["a", "b.1", "c"]
    dice = float(rows[2].split(",")[3])
    masks = load(out / "b.1.nii.gz") == 1, load(scans / "masks/b.1.nii.gz") == 1
    assert dice == pytest.approx(2 * (masks[0] & masks[1]).sum() / sum(mask.sum() for mask in masks))

    ended = eval_py(*folders, "--slices", "--protocol", "medical", "--save_dir", tmp_path / "slices")
    assert ended.status == 0, ended.err
    rows = [row.split(",") for row in (tmp_path / "slices/per_image.csv").read_text().splitlines()]
    assert len(rows) == 25 and rows[9][2] == "b.1/0000"
    expected = sam2unet.surface_scores(*(mask[:, ::-1, 0].T for mask in masks), spacing=(2.0, 2.0))
    assert float(rows[9][rows[0].index("ASSD")]) == pytest.approx(expected["ASSD"])

    again = ["--checkpoint", checkpoint, "--test_image_path", scans / "images", "--save_path", out, "--skip_existing"]
    (out / "c.nii.gz").unlink()
    ended = test_py(*again)
    assert ended.status == 0 and "16 of 24 maps are already in" in ended.out and (out / "c.nii.gz").is_file()


def test_classes_are_written_with_their_values(train, test_py, tmp_path):
    def label(values):
        return (np.digitize(values, np.quantile(values, (0.6, 0.9))) * 100).astype(np.uint16)

    write_case(tmp_path / "scans", "a", labels=label)
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes:\n- {name: none, value: 0}\n- {name: dark, value: 100}\n- {name: bright, value: 200}\n")
    assert train(tmp_path / "scans", "--classes", classes).status == 0
    flags = ["--test_image_path", tmp_path / "scans/images/a.nii.gz", "--save_path", tmp_path / "out"]
    ended = test_py("--checkpoint", tmp_path / "run/SAM2-UNet-1.pth", *flags, "--save_prob", "float32")
    assert ended.status == 0, ended.err
    labels, probability = load(tmp_path / "out/a.nii.gz"), load(tmp_path / "out/prob/a.nii.gz")
    assert probability.shape == (*labels.shape, 3)
    assert np.array_equal(labels, probability.argmax(-1) * 100)


def test_a_volume_is_written_whole_or_not_at_all(checkpoint, test_py, scans, tmp_path):
    path = scans / "images/b.1.nii.gz"
    path.write_bytes(path.read_bytes()[:3000])
    flags = [
        "--checkpoint",
        checkpoint,
        "--test_image_path",
        scans / "images",
        "--save_path",
        tmp_path / "out",
        "--size",
        64,
    ]
    ended = test_py(*flags)
    assert ended.status == 2 and "b.1.nii.gz" in ended.err[-1] and "--on_bad_image skip" in ended.err[-1]
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz"}
    ended = test_py(*flags, "--on_bad_image", "skip")
    assert ended.status == 1
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}


def test_one_process_predicts_all_slices_of_a_volume(scans, tmp_path):
    jobs = find_jobs(PredictFiles(scans / "images", tmp_path / "out"))
    shares = [jobs.share(Shard(number, 2)) for number in (1, 2)]
    cases = [{job.item.path.case for job in share} for share in shares]
    assert cases == [{"a", "c"}, {"b.1"}] and sum(map(len, shares)) == len(jobs) == 24


def test_a_scan_is_never_in_two_folds(scans):
    family = find_family_of(sam2unet.create_model("sam2unet", encoder="micro"))
    places = {}
    for fold in (1, 2, 3):
        data = RunData([scans / "images"], [scans / "masks"], folds=3, fold=fold)
        task = MaskTask(family, Recipe(size=64), data)
        cases = {pair.image.case for pair in task.held_out}
        assert len(task.held_out) == 8 and len(cases) == 1 and cases.isdisjoint(p.image.case for p in task.pairs)
        places[fold] = cases.pop()
    assert set(places.values()) == {"a", "b.1", "c"}


def test_pictures_with_16_bits_keep_the_window_of_the_training(train, test_py, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(8):
        values = rng.integers(0, 3000, (40, 50)).astype(np.uint16)
        save(tmp_path / f"png/masks/{index}.png", ((values > 2000) * 255).astype(np.uint8))
        (tmp_path / "png/images").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"png/images/{index}.png")
    assert train(tmp_path / "png", "--window", "1500,1000").status == 0
    checkpoint = tmp_path / "run/SAM2-UNet-1.pth"
    flags = ["--test_image_path", tmp_path / "png/images", "--save_path", tmp_path / "out", "--no_minmax"]
    assert test_py("--checkpoint", checkpoint, *flags).status == 0
    values = np.asarray(Image.open(tmp_path / "png/images/3.png")).astype(float)
    picture = np.rint(((values - 1000) * 0.255).clip(0, 255)).astype(np.uint8)
    model = sam2unet.load_model(checkpoint, device="cpu")
    expected = sam2unet.predict(model, picture, minmax=False) * 255
    assert np.abs(np.asarray(Image.open(tmp_path / "out/3.png")) - expected).max() <= 1
    assert np.abs(sam2unet.predict(model, tmp_path / "png/images/3.png", minmax=False) * 255 - expected).max() < 0.01


def test_data_are_checked_and_become_lists_for_prompts(scans, tmp_path, capsys):
    check = load_script("scripts/check_data.py")
    check.run(check.parser().parse_args([str(scans / "images"), str(scans / "masks"), "--save_path", str(tmp_path)]))
    assert "pairs            24" in capsys.readouterr().out
    make = load_script("scripts/make_prompt_data.py")
    folders = [str(scans / "images"), str(scans / "masks"), "--save_path", str(tmp_path / "lists")]
    make.run(make.parser().parse_args([*folders, "--hold_out", "3"]))
    names = sorted(path.name for path in (tmp_path / "lists/slices/images").iterdir())
    assert names[0] == "a_0000.png" and len(names) == 24
    assert "c_00" not in (tmp_path / "lists/image2label_train.json").read_text()
    assert "a_00" not in (tmp_path / "lists/label2image_test.json").read_text()
    (part,) = list_slices(scans / "images/a.nii.gz", SliceView())[3:4]
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "lists/slices/images/a_0003.png")), np.asarray(read_image(part))
    )


def test_dicom_becomes_nifti_or_a_segmentation_of_the_series(train, test_py, eval_py, tmp_path):
    pytest.importorskip("highdicom")
    from sam2unet.data.dicom import open_dicom
    from tests.dicom_files import write_segmentation, write_series

    for name in ("p1", "p2"):
        series = write_series(tmp_path / f"ct/images/{name}", count=4, shape=(40, 48))
        volume = open_dicom(series)
        mask = (volume.read() > -300).astype(np.uint8)
        mask[:, :, 0] = 0  # the segmentation stores only the other slices
        (tmp_path / "ct/masks").mkdir(exist_ok=True)
        if name == "p1":
            write_segmentation(tmp_path / "ct/masks/p1.dcm", series, mask, {1: "body"})
        else:
            nibabel.save(nibabel.Nifti1Image(mask, volume.affine), tmp_path / "ct/masks/p2.nii.gz")
    assert train(tmp_path / "ct").is_refusal("p1 is CT; give --window abdomen, lung, brain, bone or LEVEL,WIDTH")
    ended = train(tmp_path / "ct", "--window", "lung")
    assert ended.status == 0, ended.err
    assert "data: 8 pairs" in ended.out

    flags = ["--checkpoint", tmp_path / "run/SAM2-UNet-1.pth", "--test_image_path", tmp_path / "ct/images"]
    for name, more in (("nifti", []), ("seg", ["--dicom_seg"])):
        ended = test_py(*flags, "--save_path", tmp_path / name, *more)
        assert ended.status == 0, ended.err
    labels = nibabel.load(tmp_path / "nifti/p1.nii.gz")
    assert np.allclose(labels.affine, volume.affine) and labels.shape == volume.shape
    for folder in ("nifti", "seg"):
        flags = ["--dataset_name", "CT", "--pred_path", tmp_path / folder, "--gt_path", tmp_path / "ct/masks"]
        ended = eval_py(*flags, "--protocol", "medical", "--save_dir", tmp_path / f"{folder}_scores", "--workers", 1)
        assert ended.status == 0, ended.err
    tables = [read_numbers(tmp_path / f"{folder}_scores/per_image.csv") for folder in ("nifti", "seg")]
    assert tables[0].shape == (2, 9) and 0 < tables[0][:, 0].min()
    np.testing.assert_allclose(*tables, rtol=1e-6)  # a NIfTI file stores its affine in 32 bits


def test_a_picture_with_16_bits_has_the_map_of_a_photograph(checkpoint, test_py, tmp_path):
    """It is stretched, it has the size of its mask, and the script says that it shows no object."""
    values = np.random.default_rng(0).integers(0, 3000, (40, 50)).astype(np.uint16)
    save(tmp_path / "images/a.png", values)
    save(tmp_path / "masks/a.png", np.zeros((60, 80), np.uint16))
    state = torch.load(checkpoint)
    torch.save(state | {"head.bias": state["head.bias"] - 30}, tmp_path / "low.pth")
    flags = ["--checkpoint", tmp_path / "low.pth", "--size", 64, "--window", "1500,1000"]
    folders = ["--test_image_path", tmp_path / "images", "--test_gt_path", tmp_path / "masks"]
    ended = test_py(*flags, *folders, "--save_path", tmp_path / "out")
    assert ended.status == 0 and "no object above 0.5 in 1 of 1 images: a.png" in ended.out, ended
    pixels = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert pixels.shape == (60, 80)
    picture = np.rint(((values - 1000.0) * 0.255).clip(0, 255)).astype(np.uint8)
    model = sam2unet.load_model(tmp_path / "low.pth", device="cpu")
    probability = Predictor.from_model(model, 64).predict_photo(Image.fromarray(picture).convert("RGB"), (60, 80))
    assert np.abs(pixels - (stretch_range(probability) * 255).numpy()).max() <= 1


def test_a_missing_picture_of_a_slice_makes_the_whole_volume_again(checkpoint, test_py, scans, tmp_path):
    (scans / "images/c.nii.gz").unlink()
    flags = ["--checkpoint", checkpoint, "--test_image_path", scans / "images", "--save_path", tmp_path / "out"]
    flags += ["--size", 64, "--save_slices", "--skip_existing"]
    assert test_py(*flags).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out/slices").rglob("*.png")}
    (tmp_path / "out/slices/b.1/0005.png").unlink()
    ended = test_py(*flags)
    assert (ended.status, ended.err) == (0, []) and "8 of 16 maps are already in" in ended.out
    assert {path: path.read_bytes() for path in (tmp_path / "out/slices").rglob("*.png")} == before


def test_the_maps_of_a_volume_with_a_bad_slice_are_dropped(checkpoint, test_py, scans, tmp_path):
    (scans / "images/c.nii.gz").unlink()
    path = scans / "images/b.1.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).astype(np.float32)
    values[0, 0, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    flags = ["--checkpoint", checkpoint, "--test_image_path", scans / "images", "--save_path", tmp_path / "out"]
    ended = test_py(*flags, "--size", 64, "--window", "100,200", "--on_bad_image", "skip")
    assert ended.status == 1 and ended.err[-1].startswith("error: 1 of 16 images were left out: ")
    assert f"warning: {path}: its map is not written, because slices of it cannot be read" in ended.err
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz"}

    first, second, third, *_ = list_slices(path, SliceView(window="100,200"))
    maps, paths = VolumeMaps(None), {"map": tmp_path / "b.1.nii.gz"}
    pixels = np.zeros(read_image(first).size[::-1], np.uint8)
    maps.add(first, paths, pixels, None)
    assert maps.volumes
    maps.leave_out(second)
    assert maps.add(third, paths, pixels, None) == {} and not maps.volumes
