"""Conditions of --where that would choose other images than the user means, and images for maps."""

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.index.build import build_index
from sam2unet.data.index.select import IndexQuery, open_index_parts
from sam2unet.errors import UserError
from sam2unet.masks.files.jobs import PredictFiles, find_jobs
from tests.med2d import write_med2d, write_pairs


def test_every_image_gets_a_map_also_if_its_mask_has_a_fault(tmp_path, capsys):
    folder = write_pairs(tmp_path / "data", ["a", "b", "c"])
    Image.new("L", (20, 20)).save(folder / "masks/a.png")
    Image.new("L", (20, 20), 77).save(folder / "masks/b.png")
    (folder / "images/c.png").write_bytes(b"no image")
    build_index([folder], tmp_path / "index", workers=1)
    query = IndexQuery(tmp_path / "index")
    jobs = find_jobs(PredictFiles(tmp_path / "index", tmp_path / "maps", index=query))
    assert [job.item.name for job in jobs] == ["data/images/a", "data/images/b"]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("med2d")
    build_index([write_med2d(folder)], folder / "index", sample=0.25, workers=1)
    return folder / "index"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("width<100", "--where width needs the check of all files, but .* was made with --sample 0.25"),
        ("foreground!=3", "--where foreground needs the check"),
        ("modality=ct|mri", "has mri, but no modality has this name; there are ct, mr"),
        ("dataset!=AMOS|Brain*|Chest", "has Chest, but no dataset has this name"),
        ("case!=BraTS/Case_1", "has BraTS/Case_1, but no case has this name; wanted DATASET/CASE"),
        ("case=BraTS/Case_*", "no case has this name"),
        ("class>=1", "class is a number, and = != < > compare it"),
    ],
)
def test_conditions_that_would_choose_other_images_are_refused(sampled, where, words):
    with pytest.raises(UserError, match=words):
        open_index_parts(IndexQuery(sampled, where=where), seed=0)


def test_soft_masks_are_validated_but_not_with_prompts(tmp_path):
    names = [f"n{number}" for number in range(8)]
    folder = write_pairs(tmp_path / "data", names)
    for name in names:
        soft = np.asarray(Image.open(folder / f"masks/{name}.png")).copy()
        soft[4, 5:12] = 100
        Image.fromarray(soft).save(folder / f"masks/{name}.png")
    build_index([folder], tmp_path / "index", workers=1)
    query = IndexQuery(tmp_path / "index", split="case:0.5")
    parts = open_index_parts(query, seed=0)
    assert len(parts.training.items) + len(parts.held_out) == 8
    with pytest.raises(UserError, match="the held-out part has no image without faults"):
        open_index_parts(query, seed=0, strict=True)
