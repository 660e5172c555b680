"""Where the reference data is, and small folders of real files to work on."""

import dataclasses
import fcntl
import gc
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet import atomic
from sam2unet.classes import Classes
from sam2unet.data.layouts.table import COUNTS
from sam2unet.data.pairs import Pair
from sam2unet.layers.hiera import hiera
from sam2unet.layers.sam3_vit import sam3_vit
from sam2unet.layers.sam_vit import SamViT
from sam2unet.models.sam_med2d import SAMMed2D
from sam2unet.prompts.lists import ImageMasks
from tests.benchmark_folders import CASES
from tests.exported import (  # noqa: F401
    dino_micro,
    exported_onnx,
    exported_prompts,
    mask_checkpoint,
    prompt_checkpoint,
    trained,
)
from tests.forked import ROOT
from tests.networks import TINY, add_sizes
from tests.running import (  # noqa: F401
    eval_py,
    load_script,
    maps_of,
    run_py,
    script,
    start,
    start_two,
    test_py,
    torchrun,
    train_py,
    two_processes,
)

# The files that take longest start first, so that all processes are busy until the end.
NAMES = "contract graphs docs masks scripts quickstart resume prompt_page training gpu options train sam3unet "
NAMES += "sam2unext mask_page same_result class_task processes elastic tour clients cross_validate reproduce sam_med2d "
NAMES += "pixel_scores console manual"
LONG = [f"test_{name}.py" for name in NAMES.split()]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def micro_sizes():
    add_sizes()


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Tests need not wait until a disk has their files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        patch.setattr(atomic, "sync_disk", lambda folder: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor write the files in the cache folder of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM2UNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def freeze_objects():
    """Python's collector no longer looks at what imports and earlier tests made. imageio collects after each video."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # it looks less often than after 700 new objects, of which an export makes many


def pytest_sessionfinish(session):
    """Removes what `make_once` made, some of which is large."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(session.config._tmp_path_factory.getbasetemp() / "made_once", ignore_errors=True)


@pytest.fixture(autouse=True)
def seed_torch():
    """Every test draws the same random numbers, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real images; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SAM2UNET_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no reference data at {folder}; set SAM2UNET_SHARED to its place")
    return folder


@pytest.fixture(scope="session")
def reference(shared):
    return shared / "reference"


@pytest.fixture(scope="session")
def fill(reference):
    """The module that makes weights and inputs from names, shapes and a seed."""
    spec = importlib.util.spec_from_file_location("fill", reference / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def polyps(shared) -> Path:
    return shared / "data/polypgen_c1/test"


@pytest.fixture(scope="session")
def checkpoint(fill, tmp_path_factory) -> Path:
    """The smallest network, with generated weights whose maps use the whole grey range."""
    model = sam2unet.create_model("sam2unet", encoder="micro")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    path = tmp_path_factory.mktemp("weights") / "SAM2-UNet-20.pth"
    torch.save(model.state_dict(), path)  # as the released script saves it
    return path


@pytest.fixture(scope="session")
def class_checkpoint(fill, tmp_path_factory) -> Path:
    """The smallest network, with the classes of `write_classes` and generated weights; its maps have all classes."""
    folder = tmp_path_factory.mktemp("classes")
    model = sam2unet.create_model("sam2unet", encoder="micro", classes=3)
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    torch.save(model.state_dict(), folder / "SAM2-UNet-20.pth")
    classes = Classes.read(write_classes(folder / "classes.yaml"))
    dataclasses.replace(model.recipe, size=64, classes=classes).write(folder / "recipe.yaml")
    return folder / "SAM2-UNet-20.pth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window; it logs its messages and its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", *quiet, profile):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(20)
    yield browser
    browser.quit()


@pytest.fixture
def small_counts(monkeypatch):
    """Replaces the published counts of benchmarks by the counts of a case in tests/benchmark_folders.py."""

    def call(case: str) -> None:
        for part in CASES[case]:
            monkeypatch.setitem(COUNTS, part.name, (len(part.stems),))

    return call


def sam2_file(path: Path, keys: Path, extra: dict[str, list[int]] | None = None) -> Path:
    """A file with the names and shapes of a SAM 2 checkpoint, all zero: one number stored per tensor."""
    shapes = {name: shape for name, shape, _ in json.loads(keys.read_text())} | (extra or {})
    torch.save({"model": {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}}, path)
    return path


def write_pairs(folder: Path, count: int = 4, size: tuple[int, int] = (60, 50)) -> tuple[Path, Path]:
    """Folders images/ and masks/ with `count` noise images a.jpg, b.jpg, ... and 0/255 rectangles."""
    rng = np.random.default_rng(0)
    width, height = size
    for index in range(count):
        stem = chr(ord("a") + index)
        mask = np.zeros((height, width), np.uint8)
        mask[10 : 20 + 5 * index, 10:30] = 255
        save(folder / f"images/{stem}.jpg", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        save(folder / f"masks/{stem}.png", mask)
    return folder / "images", folder / "masks"


def write_class_pairs(folder: Path, count: int = 4, size: tuple[int, int] = (60, 50)) -> tuple[Path, Path, Path]:
    """As `write_pairs`, with masks of the classes of `write_classes`. Also returns the file of the classes."""
    images, masks = write_pairs(folder, count, size)
    for index, path in enumerate(sorted(masks.iterdir())):
        mask = np.array(Image.open(path)) // 255
        mask[:, size[0] // 2 :] = 2 * (index % 2)
        mask[:3] = 255
        save(path, mask)
    return images, masks, write_classes(folder / "classes.yaml")


def write_classes(path: Path, before: str = "") -> Path:
    path.write_text(
        f"{before}classes:\n  - {{name: background, value: 0}}\n  - {{name: left, value: 1, color: [220, 20, 60]}}\n"
        "  - {name: right, value: 2, color: [0, 90, 200]}\n" + ("" if before else "ignore: 255\n")
    )
    return path


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="session")
def sam2_micro(fill, tmp_path_factory) -> Path:
    """A SAM 2 checkpoint of the smallest trunk with generated weights; it has nothing but the trunk."""
    trunk = fill.fill_state_dict(hiera("micro").state_dict(), 1)
    path = tmp_path_factory.mktemp("weights") / "sam2_hiera_micro.pt"
    torch.save({"model": {f"image_encoder.trunk.{name}": t for name, t in trunk.items()}}, path)
    return path


@pytest.fixture(scope="session")
def sam3_micro(fill, tmp_path_factory) -> Path:
    """As sam3.pt: the smallest trunk with generated weights, its rotations, and a weight of another part."""
    trunk = fill.fill_state_dict(sam3_vit("micro").state_dict(), 1)
    path = tmp_path_factory.mktemp("weights") / "sam3.pt"
    others = {"tracker.weight": torch.zeros(1)}
    torch.save({f"detector.backbone.vision_backbone.trunk.{name}": t for name, t in trunk.items()} | others, path)
    return path


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Makes a folder once for all test processes: `make_once("exported", lambda folder: ...)` returns its path."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "made_once"

    def call(name: str, write: Callable[[Path], object]) -> Path:
        root.mkdir(exist_ok=True)
        folder = root / name
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                write(Path(part := tempfile.mkdtemp(dir=root)))
                os.rename(part, folder)
        return folder

    return call


@pytest.fixture(scope="session")
def convert():
    """scripts/convert_checkpoint.py in this process: `convert(source, target)`."""
    module = load_script("scripts/convert_checkpoint.py")
    return lambda *words: module.run(module.parser().parse_args([str(word) for word in words]))


@pytest.fixture(scope="session")
def sam_med2d_b(fill, make_once) -> SAMMed2D:
    """SAM-Med2D of the released size with generated weights; not to be changed. The processes share their memory."""
    with torch.device("meta"):
        model = sam2unet.create_model("sam_med2d")

    def write(folder: Path) -> None:
        torch.save(fill.fill_state_dict(model.state_dict(), 0), folder / "weights.pth")

    weights = torch.load(make_once("sam_med2d_b", write) / "weights.pth", mmap=True, weights_only=True)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def tiny_sam_med2d(side: int = 64) -> SAMMed2D:
    """Two blocks, random, the same every time; positions count."""
    torch.manual_seed(0)
    encoder = SamViT(**TINY, side=side, adapters=True)
    for name, parameter in encoder.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter)
    return SAMMed2D(encoder)


@pytest.fixture
def demo(shared, monkeypatch) -> Path:
    """The folder with the released lists, whose paths are relative to the one above it."""
    monkeypatch.chdir(shared / "data/sammed2d_demo")
    return Path("data_demo")


@pytest.fixture
def lists(tmp_path) -> list[ImageMasks]:
    """Three images of the three size rules at S = 64, with three rectangles each."""
    rng = np.random.default_rng(0)
    items = []
    for number, (height, width) in enumerate([(50, 41), (50, 90), (128, 100)]):
        image = tmp_path / f"images/i{number}.png"
        save(image, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        masks = []
        for k in range(3):
            mask = np.zeros((height, width), np.uint8)
            mask[4 + 8 * k : 20 + 9 * k, 6:30] = 255
            masks.append(tmp_path / f"masks/i{number}_{k}.png")
            save(masks[-1], mask)
        items.append(ImageMasks(image, tuple(masks)))
    return items


def flat(items: list[ImageMasks]) -> list[Pair]:
    return [Pair(item.image, mask) for item in items for mask in item.masks]


def same(a: object, b: object) -> bool:
    """Whether two batches or prompts are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
