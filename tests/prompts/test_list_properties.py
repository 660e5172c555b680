"""Any list, prompt file or table of scores either works or ends in a UserError of one line that names the file."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam2unet.errors import UserError
from sam2unet.export.hub_folder import format_scores, read_scores
from sam2unet.masks.files.find_inputs import find_inputs
from sam2unet.prompts.lists import TEST_LIST, TRAIN_LIST, read_prompts, read_test_list, read_train_list
from sam2unet.scoring.match import read_entry_file
from sam2unet.scoring.tables.csv_files import per_image_csv, read_per_image_csv, results_json
from sam2unet.scoring.tables.score_tables import format_table
from tests.conftest import save

SOME = [25, pytest.param(500, marks=pytest.mark.slow)]  # inputs of each kind

PATHS = st.sampled_from(
    ["i.png", "m.png", "./i.png", "", ".", "/", "none.png", "\0", "\ud800", "a" * 300, "*", "[", "~"]
)
TEXTS = PATHS | st.text(max_size=5) | st.sampled_from(["1e400", "-5", "1_0", "nan", "inf", "0x1", "٣", "=1+1"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 1, 0.5, 1e39])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6
)


def check(count, strategy, write, read, path):
    """Write `count` inputs of `strategy` to the file and read each."""

    @settings(max_examples=count, derandomize=True, database=None, deadline=None)
    @given(strategy)
    def holds(value):
        write(path, value)
        try:
            read(path)
        except UserError as e:
            assert len(str(e).splitlines()) == 1 and path.name in str(e)

    holds()


def as_json(path, value):
    path.write_text(json.dumps(value))


def as_bytes(path, value):
    path.write_bytes(value)


@st.composite
def damaged(draw, content):
    """A file's content with some of its bytes replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 8)))
        content = content[:start] + draw(st.binary(max_size=4) | TEXTS.map(utf8)) + content[end:]
    return content


def utf8(text):
    return text.encode(errors="replace")


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("i.png", "m.png"):
        save(tmp_path / name, np.zeros((4, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("count", SOME)
@pytest.mark.parametrize(
    "name, read, good, near",
    [
        (
            TRAIN_LIST,
            read_train_list,
            {"i.png": ["m.png"]},
            st.dictionaries(PATHS, st.lists(PATHS | VALUES, max_size=3), max_size=3),
        ),
        (TEST_LIST, read_test_list, {"m.png": "i.png"}, st.dictionaries(PATHS, PATHS | VALUES, max_size=3)),
    ],
)
def test_lists_of_masks(name, read, good, near, count, files):
    path = files / name
    check(count, near | VALUES, as_json, lambda path: read(path.parent), path)
    check(count, damaged(json.dumps(good).encode()), as_bytes, lambda path: read(path.parent), path)


POINTS = {"boxes": [[1.0, 2.0, 3.0, 4.0]], "point_coords": [[1.0, 2.0], [3.0, 4.0]], "point_labels": [1, 0]}
NESTED = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@pytest.mark.parametrize("count", SOME)
def test_prompt_files(count, files):
    def read(path):
        (prompts,) = read_prompts(path, ["m.png"])
        assert prompts.boxes.shape == (1, 4) and prompts.boxes.isfinite().all()
        coords, labels = prompts.points
        assert coords.shape == (1, labels.shape[1], 2) and coords.isfinite().all()

    part = st.fixed_dictionaries(
        {}, optional={name: st.just(value) | NESTED | VALUES for name, value in POINTS.items()}
    )
    check(count, part.map(lambda one: {"m.png": one}) | VALUES, as_json, read, files / "64_prompt.json")
    check(count, damaged(json.dumps({"m.png": POINTS}).encode()), as_bytes, read, files / "64_prompt.json")


@pytest.mark.parametrize("count", SOME)
def test_lists_of_files(count, files):
    lines = st.lists(PATHS | TEXTS, max_size=4).map(lambda names: utf8("\n".join(names)))
    check(count, lines | damaged(b"i.png\r\nm.png\n") | st.binary(), as_bytes, find_inputs, files / "list.txt")


ROWS = b"dataset,method,image,S,E_mean,dichotomous_HCE\nA,x,one,0.5,0.25,12\nA,x,two,0.5,,1e3\nA,y,one,1,0.25,12\n"


@pytest.mark.parametrize("count", SOME)
def test_tables_of_images(count, files):
    def read(path):
        results = read_per_image_csv(path)
        assert len(format_table(results, ["S"]).splitlines()) == 1 + len(results)
        assert all(math.isnan(value) or 0 <= value <= 1e16 for r in results for value in r.table.values())
        results_json(results, {}, {})
        (path.parent / "again.csv").write_text("".join(per_image_csv(results)))
        assert list(per_image_csv(read_per_image_csv(path.parent / "again.csv"))) == list(per_image_csv(results))

    cells = st.lists(TEXTS, min_size=6, max_size=6).map(lambda row: ROWS + utf8(",".join(row)))
    check(count, damaged(ROWS) | cells | st.binary(), as_bytes, read, files / "per_image.csv")


@pytest.mark.parametrize("count", SOME)
def test_scores_for_the_model_card(count, files):
    def read(path):
        format_scores(*read_scores(path))

    good = {
        "datasets": {"A": {"x": {"S": 0.5}}},
        "files": {"A": {"x": {"images": 1}}},
        "arguments": {"protocol": "salient"},
    }
    near = st.fixed_dictionaries({name: st.just(value) | VALUES for name, value in good.items()})
    check(count, near, as_json, read, files / "results.json")
    check(count, damaged(json.dumps(good).encode()), as_bytes, read, files / "results.json")


@pytest.mark.parametrize("count", SOME)
def test_files_of_data_sets(count, files):
    def read(path):
        assert read_entry_file(path)

    block = st.fixed_dictionaries({name: TEXTS | VALUES for name in ("masks", "predictions")})
    near = st.dictionaries(TEXTS, block | VALUES, max_size=2).map(lambda sets: {"datasets": sets})
    check(1, st.just({"datasets": {"A": {"masks": "m", "predictions": {}}}}), as_json, read, files / "sets.yaml")
    check(count, near, as_json, read, files / "sets.yaml")
    good = b"datasets:\n  A: {masks: m, images: i, predictions: {x: p, y: q}}\n"
    check(count, damaged(good), as_bytes, read, files / "sets.yaml")
