"""Every bad input ends with status 2 and one line that helps, and nothing is written."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.layers.hiera import hiera
from tests.conftest import ROOT, save, write_pairs

TRAIN = "train.py --encoder tiny --size 64 --train_image_path images --train_mask_path masks --save_path out"
TEST = "test.py --checkpoint tiny.pth --size 64 --test_image_path images --save_path out"
EVAL = "eval.py --dataset_name set --pred_path preds --gt_path masks"


def nothing(folder):
    pass


def remove(*names):
    return lambda folder: [shutil.rmtree(p) if (p := folder / name).is_dir() else p.unlink() for name in names]


def empty(name):
    return lambda folder: [path.unlink() for path in (folder / name).iterdir()]


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def copy(source, target):
    return lambda folder: shutil.copy(folder / source, folder / target)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-300])


def recode(name, high):
    return lambda folder: save(folder / name, np.asarray(Image.open(folder / name)) // 255 * high)


def resize(name, size):
    return lambda folder: Image.open(folder / name).resize(size).save(folder / name)


# What is done to the folder, the command line, and words that the line must hold.
CASES = {
    "train: no image folder": (remove("images"), TRAIN, "no such folder: images"),
    "train: no mask folder": (remove("masks"), TRAIN, "no such folder: masks"),
    "train: no images": (empty("images"), TRAIN, "no images in images"),
    "train: no masks": (empty("masks"), TRAIN, "no images in masks"),
    "train: images without mask": (
        remove("masks/b.png", "masks/d.png"),
        TRAIN,
        "2 of 4 images have no mask: b.jpg, d.jpg (masks looked for in masks",
    ),
    "train: two images with one stem": (copy("images/a.jpg", "images/a.jpeg"), TRAIN, "a.jpeg and a.jpg"),
    "train: two masks with one stem": (copy("masks/a.png", "masks/a.bmp"), TRAIN, "a.bmp and a.png"),
    "train: masks 0/1": (recode("masks/c.png", 1), TRAIN, "1 of 4 masks are not 0/255: c.png (values found: 0, 1;"),
    "train: masks 0/128": (recode("masks/c.png", 128), TRAIN, "values found: 0, 128; in masks); say which values"),
    "train: mask of another shape": (resize("masks/b.png", (60, 60)), TRAIN, "b.jpg (60x50, mask 60x60)"),
    "train: damaged image": (cut("images/b.jpg"), TRAIN, "cannot read images/b.jpg"),
    "train: damaged mask": (cut("masks/b.png"), TRAIN, "cannot read masks/b.png"),
    "train: text called .jpg": (write("images/b.jpg", b"hello"), TRAIN, "cannot read images/b.jpg"),
    "train: size": (nothing, f"{TRAIN} --size 330", "size 330 is not a multiple of 32; give 320 or 352"),
    "train: size 0": (nothing, f"{TRAIN} --size 0", "size is 0; it must be from 32 to 8192"),
    "train: a batch of one at the smallest size": (nothing, f"{TRAIN} --size 32 --batch_size 3", "give --size 64"),
    "train: a batch of one at the smallest scale": (
        nothing,
        f"{TRAIN} --multi_scale 1 0.5 --batch_size 3",
        "a single value where a batch holds one image (4 pairs in batches of 3); give a larger scale than 0.5 or",
    ),
    "train: a batch of one at the end of several passes": (
        nothing,
        f"{TRAIN} --size 32 --batch_size 11 --repeat 3",
        "(12 pairs in batches of 11); give --size 64",
    ),
    "train: the largest scale": (nothing, f"{TRAIN} --multi_scale 0.1", "multi_scale 0.1: size is 6; it must be from"),
    "train: no weights file": (nothing, f"{TRAIN} --hiera_path no.pt", "no such file: no.pt"),
    "train: checkpoint as weights": (
        nothing,
        f"{TRAIN} --hiera_path tiny.pth",
        "tiny.pth is a SAM2-UNet checkpoint, which belongs to --checkpoint of test.py",
    ),
    "train: picture as weights": (
        nothing,
        f"{TRAIN} --hiera_path images/a.jpg",
        "is not a PyTorch file that holds only weights",
    ),
    "train: weights of another size": (
        nothing,
        f"{TRAIN} --hiera_path sam2.pt --encoder large",
        "sam2.pt is SAM 2 tiny, but the requested encoder is large; give --encoder tiny",
    ),
    "train: unknown encoder": (nothing, f"{TRAIN} --encoder huge", "there are tiny, small, base_plus, large"),
    "train: no recipe": (nothing, f"{TRAIN} --config no.yaml", "no such file: no.yaml"),
    "train: unknown key": (
        write("r.yaml", b"learning_rate: 1"),
        f"{TRAIN} --config r.yaml",
        "unknown key learning_rate",
    ),
    "train: word for a number": (
        write("r.yaml", b"lr: fast"),
        f"{TRAIN} --config r.yaml",
        "lr is 'fast'; wanted float",
    ),
    "train: not YAML": (write("r.yaml", b"lr: [1\nb: }"), f"{TRAIN} --config r.yaml", "r.yaml is not YAML"),
    "train: unknown model": (write("r.yaml", b"model: unet"), f"{TRAIN} --config r.yaml", "no model named unet"),
    "train: no epochs": (nothing, f"{TRAIN} --epoch 0", "epoch is 0; it must be from 1 to 100000"),
    "train: word for a flag": (nothing, f"{TRAIN} --batch_size many", "argument --batch_size: invalid int value"),
    "train: unknown flag": (nothing, f"{TRAIN} --epochen 3", "unrecognized arguments: --epochen 3"),
    "train: flag left out": (
        nothing,
        "train.py --save_path out",
        "--train_image_path and --train_mask_path, folders",
    ),
    "train: unknown device": (nothing, f"{TRAIN} --device gpu", "device gpu cannot be used here"),
    "train: workers": (nothing, f"{TRAIN} --workers -1", "workers is -1"),
    "train: file in the way": (write("out", b""), TRAIN, "cannot make the folder out"),
    "test: no checkpoint": (remove("tiny.pth"), TEST, "no such file: tiny.pth"),
    "test: SAM 2 as checkpoint": (
        nothing,
        f"{TEST} --checkpoint sam2.pt",
        "sam2.pt is a SAM 2 checkpoint, which belongs to --hiera_path of train.py",
    ),
    "test: part of a checkpoint": (cut("tiny.pth"), TEST, "or only a part of one"),
    "test: no images": (empty("images"), TEST, "no images in images"),
    "test: image without mask": (remove("masks/a.png"), f"{TEST} --test_gt_path masks", "1 of 4 images have no mask"),
    "test: two images with one stem": (copy("images/a.jpg", "images/a.jpeg"), TEST, "a.jpeg and a.jpg"),
    "test: maps onto images": (nothing, f"{TEST} --save_path images/", "is a folder of inputs"),
    "test: maps onto masks": (nothing, f"{TEST} --test_gt_path masks --save_path ./masks", "is a folder of inputs"),
    "test: threshold": (nothing, f"{TEST} --threshold 128", "threshold is 128.0; it must be from 0 to 1"),
    "test: size": (nothing, f"{TEST} --size 100", "give 96 or 128"),
    "test: first image damaged": (write("images/a.jpg", b"hello"), TEST, "cannot read images/a.jpg"),
    "eval: missing predictions": (remove("preds/a.png"), EVAL, "1 of 4 masks have no prediction: a.png"),
    "eval: sizes differ": (resize("preds/b.png", (30, 25)), EVAL, "b.png (30x25, mask 60x50)"),
    "eval: masks 0/1": (recode("masks/d.png", 1), EVAL, "1 of 4 masks are not 0/255: d.png (values found: 0, 1;"),
    "eval: no predictions folder": (remove("preds"), EVAL, "no such folder: preds"),
    "eval: damaged prediction": (cut("preds/c.png"), EVAL, "cannot read preds/c.png"),
    "eval: masks as predictions": (nothing, f"{EVAL} --pred_path masks", "are the same folder"),
    "sample data: seed": (nothing, "scripts/make_sample_data.py --save_path out --seed -1", "seed is -1"),
    "quickstart: volumes": (
        lambda folder: (empty("images")(folder), write("images/a.nii.gz", b"")(folder)),
        "scripts/quickstart.py --images images --masks masks --save_path out",
        "images/a.nii.gz is a volume, and quickstart is for pictures; docs/medical.md",
    ),
    "quickstart: images alone": (nothing, "scripts/quickstart.py --images images", "--images and --masks go together"),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder with valid input for all scripts."""
    clean = tmp_path_factory.mktemp("clean")
    write_pairs(clean)
    shutil.copytree(clean / "masks", clean / "preds")
    with torch.device("meta"):
        trunk, model = hiera("tiny"), sam2unet.create_model("sam2unet", encoder="tiny")
    zeros = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}
    torch.save(zeros, clean / "tiny.pth")  # one number stored per tensor
    shapes = {f"image_encoder.trunk.{name}": t.shape for name, t in trunk.state_dict().items()}
    torch.save({"model": {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}}, clean / "sam2.pt")
    return clean


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status_2(name, clean, tmp_path, run_py, monkeypatch):
    prepare, line, words = CASES[name]
    folder = shutil.copytree(clean, tmp_path / "folder")
    prepare(folder)
    before = contents(folder)
    monkeypatch.chdir(folder)
    ended = run_py(*line.split())
    assert ended.status == 2, ended
    (message,) = ended.err
    assert message.startswith("error: ") and words in message
    assert contents(folder) == before


@pytest.mark.parametrize("line", [f"{TRAIN} --size 330", f"{TEST} --size 100", f"{EVAL} --pred_path masks"])
def test_a_process_ends_with_one_line_and_status_2_too(line, clean, script):
    result = script(*line.split(), cwd=clean)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ") and not (clean / "out").exists()


def test_an_image_that_goes_bad_during_training_is_one_line_too(script, tmp_path):
    """The error comes out of a worker process."""
    images, masks = write_pairs(tmp_path)
    hidden = "import sam2unet.masks.task as t; from sam2unet.data.checks.check import CheckedPairs as C; "
    hidden += "t.check_pairs = lambda *a: C(frozenset([(60, 50)]), None)"
    (tmp_path / "train_unchecked.py").write_text(
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); {hidden}\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    (images / "c.jpg").write_bytes(b"hello")
    flags = [*TRAIN.split()[1:], "--workers", 2]
    result = script(tmp_path / "train_unchecked.py", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: cannot read images/c.jpg")
