"""The page for maps of several classes, without its server: areas, switches, and the zip."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.classes import Classes, MaskClass
from sam2unet.demo import serve
from sam2unet.demo.masks.bundle import bundle
from sam2unet.demo.masks.panel import gallery_html, hide_classes, panel_html
from sam2unet.demo.masks.session import Bench, Method, Session
from sam2unet.errors import UserError
from sam2unet.masks.prediction.predictor import Predictor
from tests.conftest import save

CLASSES = Classes((MaskClass("none", 7, (0, 0, 0)), MaskClass("<red>", 1, (255, 0, 0)), MaskClass("b", 0, (0, 0, 255))))


@pytest.fixture
def session(tmp_path):
    """The brightest colour of a pixel is its class; the second model never finds the last class."""
    (tmp_path / "home/uploads").mkdir(parents=True)
    weights = torch.tensor([1.0, 1, 0.01]).view(3, 1, 1)
    models = (lambda images: 5 * images, lambda images: 5 * images * weights - 9 * (weights < 1))
    cpu, named = torch.device("cpu"), zip("xy", models, strict=True)
    methods = [Method(name, Predictor(model, 64, cpu, classes=CLASSES)) for name, model in named]
    visit = Session(Bench(methods, tmp_path / "home", [tmp_path / "home/uploads"]))
    photo = np.full((64, 64, 3), 40, np.uint8)
    for channel, rows in enumerate((slice(0, 32), slice(32, 48), slice(48, 64))):
        photo[rows, :, channel] = 200
    save(tmp_path / "home/uploads/one.png", photo)
    assert visit.add_images([tmp_path / "home/uploads/one.png"]) == []
    return visit


def test_the_page_shows_names_areas_and_differences(session):
    (item,) = session.items
    assert item.load("map0").dtype == np.uint8 and [areas.tolist() for areas in item.areas][0] == [0.5, 0.25, 0.25]
    shown = panel_html(session, 0, [0, 1, 2], 0.5)
    for words in ("none 50.0%", "&lt;red&gt; 25.0%", "b 25.0%", "background: rgb(255, 0, 0)", "another class: 25.0%"):
        assert words in shown
    assert "<red>" not in shown and shown.count("<figure") == 6
    assert panel_html(session, 0, [0, 2], 0.5) != shown != panel_html(session, 0, [0, 1, 2], 0.9)
    assert hide_classes(np.array([0, 1, 2], np.uint8), [0, 2]).tolist() == [0, 255, 2]
    session.items *= 2
    assert gallery_html(session, 0, [0, 1, 2], 0.5) != gallery_html(session, 0, [0, 2], 0.5)


def test_the_zip_has_the_pngs_of_test_py_and_overlays(session):
    with zipfile.ZipFile(bundle(session, [0, 1], 1)) as archive:
        names = {f"{method}/{kind}/one.png" for method in "xy" for kind in ("maps", "overlays")}
        assert set(archive.namelist()) == names
        map_, overlay = (Image.open(io.BytesIO(archive.read(f"x/{kind}/one.png"))) for kind in ("maps", "overlays"))
    assert map_.mode == "P" and np.array_equal(map_, np.array([7, 1, 0])[session.items[0].load("map0")])
    pixels = np.asarray(overlay)
    assert pixels[40, 5].tolist() == [255, 0, 0] and pixels[60, 5].tolist() == [40, 40, 200]  # the last class is off
    assert pixels.shape[0] > 64  # the legend


def test_masks_are_refused(session):
    with pytest.raises(UserError, match="no scores of several classes; eval.py --classes"):
        session.add_masks([session.bench.home / "uploads/one.png"])


def test_the_page_has_a_switch_for_each_class(session):
    pytest.importorskip("gradio")
    blocks = serve.import_page("masks").build_mask_page(session.bench)
    parts = {part.elem_id: part for part in blocks.blocks.values() if getattr(part, "elem_id", None)}
    assert parts["classes"].choices == [("none", 0), ("<red>", 1), ("b", 2)] and parts["classes"].value == [0, 1, 2]
    assert "threshold" not in parts and not parts["masks"].visible and "classes of two models" in parts["heading"].value


def test_two_models_must_have_the_same_classes(checkpoint, class_checkpoint):
    with pytest.raises(UserError, match="have different classes; give one of them"):
        serve.open_methods([checkpoint, class_checkpoint], {}, 64, "cpu")
