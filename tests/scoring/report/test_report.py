"""The HTML report: what the file holds."""

import html
import json
import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2unet.errors import UserError
from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.classes.columns import define_class_columns
from sam2unet.scoring.columns import METRICS
from sam2unet.scoring.compare import Difference, compare
from sam2unet.scoring.report.gallery import choose_galleries, count_room
from sam2unet.scoring.report.html_tables import report_table
from sam2unet.scoring.report.page import write_report
from sam2unet.scoring.report.pictures import (
    AGREED,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    NOTHING,
    Row,
    draw_errors,
    encode_webp,
    make_thumbnails,
    picture_bytes,
    read_map,
)
from sam2unet.scoring.report.words import describe_scores, judge_difference
from sam2unet.scoring.tables.csv_files import PER_IMAGE
from tests.conftest import save
from tests.scoring.made_up import COLUMNS, COUNT, HOSTILE


class Elements(HTMLParser):
    """Tags of a page, and the text of its JSON scripts by their id."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.scripts, self.open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open:
            self.scripts[self.open] = self.scripts.get(self.open, "") + data

    def data(self, name: str = "data"):
        return json.loads(self.scripts[name])


@pytest.fixture(scope="module")
def elements(page) -> Elements:
    return Elements(page.read_text("utf-8"))


def test_numbers_in_the_page_are_those_given(elements, results):
    first, plain = elements.data()["datasets"]
    assert [first["name"], plain["name"]] == ["Camo & <i>co</i>", "Plain"]
    for method, result in zip(first["methods"] + plain["methods"], results, strict=True):
        for key, values in result.per_image.items():
            np.testing.assert_allclose(np.array(method["values"][key], float), values, rtol=1e-5)
        for name, curve in result.curves.items():
            np.testing.assert_allclose(method["curves"][name], curve, rtol=1e-5)


def test_names_of_files_stay_text(elements, page):
    assert elements.data()["datasets"][0]["images"][5] == HOSTILE
    assert sum(tag == "script" for tag, _ in elements.tags) == 2 + COUNT + 3
    assert [tag for tag, _ in elements.tags if tag == "b"] == ["b"]  # the product's name
    assert "Camo &amp; &lt;i&gt;co" in page.read_text("utf-8")


def test_names_that_are_not_unicode_are_written(results, tmp_path):
    name = b"caf\xe9".decode(errors="surrogateescape")
    write_report([replace(results[-1], dataset=name)], tmp_path / "report.html", COLUMNS)
    assert Elements((tmp_path / "report.html").read_text("utf-8")).data()["datasets"][0]["name"] == name


def test_missing_predictions_have_no_pictures_and_undefined_scores_are_null(elements):
    pictures = elements.data("pictures-0-7")
    assert [bool(x) for x in pictures["maps"]] == [bool(x) for x in pictures["errors"]] == [True, False]
    assert elements.data()["datasets"][0]["methods"][1]["values"]["MAE"][7] is None
    assert elements.data("pictures-1-0")["photograph"] is None


def test_methods_scored_on_different_images_share_the_rows_of_those_they_have_in_common(results, tmp_path):
    few = results[-1]
    lists = {name: getattr(few, name)[1:] for name in ("images", "predictions", "masks", "photographs")}
    short = replace(few, **lists, method="short", per_image={key: v[1:] for key, v in few.per_image.items()})
    write_report([short, results[-2]], tmp_path / "report.html", COLUMNS)
    dataset = Elements((tmp_path / "report.html").read_text("utf-8")).data()["datasets"][0]
    assert dataset["images"] == ["001", "002", "000"]
    assert dataset["methods"][0]["values"]["MAE"][2] is None
    np.testing.assert_allclose(
        dataset["methods"][1]["values"]["MAE"], results[-2].per_image["MAE"][[1, 2, 0]], rtol=1e-5
    )


def test_nothing_in_the_page_points_outside(page, elements):
    links = [attrs[name] for _, attrs in elements.tags for name in ("src", "href", "action") if name in attrs]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\(", page.read_text("utf-8"))
    [policy] = [attrs["content"] for _, attrs in elements.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_says_when_how_and_from_what_it_was_made(page, elements, results):
    text = html.unescape(
        re.sub(r"<[^>]*>", "\n", page.read_text("utf-8").split('id="about"')[1].split("</details>")[0])
    )
    assert datetime.now().strftime("%Y-%m-%d") in text and "python eval.py 'a b' <i>" in text
    for result in results:
        for path in (result.predictions[0], result.masks[0], result.photographs[0]):
            assert path is None or str(path.parent) in text.splitlines()
    unnamed = replace(results[-1], method="")
    write_report([unnamed], page.with_name("unnamed.html"), COLUMNS)
    data = Elements(page.with_name("unnamed.html").read_text("utf-8")).data()
    assert data["datasets"][0]["methods"][0]["name"] == unnamed.predictions[0].parent.name


def test_the_page_says_in_words_what_the_scores_and_the_differences_mean(page, results):
    text = html.unescape(page.read_text("utf-8"))
    best = max(results[:2], key=lambda result: result.table["IoU_05"])
    share = f"{100 * best.table['IoU_05']:.1f} %"
    assert f"IoU.5: {best.method} is best; of the pixels that map or mask marks, both mark {share}" in text
    for d in compare(results, COLUMNS):
        assert f"[{d.low:+.4f}, {d.high:+.4f}]</td><td>{d.p_holm:.4f}" in text.replace("<td>", "</td><td>")


@pytest.mark.parametrize("metrics", [METRICS, define_class_columns(["road", "MAE"], surfaces=True)])
def test_every_metric_has_a_sentence(metrics):
    for key, metric in metrics.items():
        sentence = describe_scores(key, metric, ["a", "b"], [0.25, np.nan])
        assert sentence.startswith(f"{metric.title}: a is best; ") and len(sentence.split()) > 12, key
        assert "25.0 %" in sentence or "0.25" in sentence
    assert "not defined" in describe_scores("S", METRICS["S"], ["a"], [np.nan])


def test_a_difference_is_called_chance_if_its_interval_or_its_p_value_says_so():
    difference = Difference("A", "new", "base", "MAE", METRICS["MAE"], -0.1, -0.2, -0.01, 30, 0, 0.01, 0.02)
    assert judge_difference(difference) == "better"
    assert judge_difference(replace(difference, p_holm=0.2)).startswith("better, but may be chance")
    assert judge_difference(replace(difference, high=0.1)).startswith("may be chance")
    assert judge_difference(replace(difference, low=np.nan, high=np.nan)) == "too few images"


def test_scores_have_the_digits_and_the_marks_of_the_other_tables():
    methods = [
        MethodResult("A", str(i), ["x"], table={"ECE": v}) for i, v in enumerate([0.0124, 0.01212, 0.01208, 0.5])
    ]
    cells = re.findall("<td>(.*?)(?=<t|</t)", report_table("A", methods, ["ECE"], METRICS))
    assert cells == ["<u>0.0124</u>", "<strong>0.0121</strong>", "<strong>0.0121</strong>", "0.5000"]


def test_error_colours():
    found, wanted = np.array([[True, True, False, False]]), np.array([[False, True, True, False]])
    np.testing.assert_array_equal(draw_errors(found, wanted), [[FALSE_POSITIVE, AGREED, FALSE_NEGATIVE, NOTHING]])


def test_maps_are_stretched_and_cut_at_half_their_range(tmp_path):
    save(tmp_path / "map.png", np.array([[10, 59, 61, 110]], np.uint8))
    grey, found = read_map(tmp_path / "map.png", (4, 1))
    assert np.asarray(grey).tolist() == [[0, 125, 130, 255]]
    assert found.tolist() == [[False, False, True, True]]
    save(tmp_path / "flat.png", np.full((2, 2), 90, np.uint8))
    grey, found = read_map(tmp_path / "flat.png", (4, 2))
    assert np.asarray(grey).tolist() == [[90] * 4] * 2 and not found.any()

    noise = np.random.default_rng(0).integers(0, 256, (24, 30), np.uint8)
    save(tmp_path / "large.png", noise)  # --resize: OpenCV takes four pixels for each new one, Pillow the mean of more
    resized = cv2.resize(noise, (10, 8), interpolation=cv2.INTER_LINEAR)
    save(tmp_path / "small.png", resized)
    assert (read_map(tmp_path / "large.png", (10, 8))[1] == read_map(tmp_path / "small.png", (10, 8))[1]).all()


def test_masks_of_other_values_are_read_as_they_were_scored(results, tmp_path):
    save(tmp_path / "mask.png", (np.asarray(Image.open(results[-1].masks[0])) > 0).astype(np.uint8))
    coded = replace(results[-1], masks=[tmp_path / "mask.png"] * 3)
    with pytest.raises(UserError, match="mask_threshold"):
        write_report([coded], tmp_path / "report.html", COLUMNS)
    write_report([coded], tmp_path / "report.html", COLUMNS, mask_threshold=0)


def test_a_file_that_cannot_be_read_leaves_the_old_page(results, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    bad = replace(results[-1], predictions=[*results[-1].predictions[:2], tmp_path / "damaged.png"])
    with pytest.raises(UserError, match="damaged.png"):
        write_report([bad], path, COLUMNS)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []


@pytest.mark.slow
def test_2000_images_stay_under_60_MB(shared, tmp_path):
    """Real maps and photographs at the thumbnail size of 2000 images; and all the numbers of 2000, with tiny ones."""
    folder = shared / "data/maps_sod_dss"
    masks = sorted((folder / "masks").iterdir())[:40]
    photographs = sorted((shared / "data/horses/test/images").iterdir())[:40]
    rows = [Row(m.stem, m, p, [folder / "preds" / m.name]) for m, p in zip(masks, photographs, strict=True)]
    room = picture_bytes(rows * 50)
    pictures = sum(len(json.dumps(make_thumbnails(row, room, None))) for row in rows) / len(rows)

    path = tmp_path / "report.html"
    save(tmp_path / "dot.png", np.array([[0, 255]], np.uint8))
    dots = [tmp_path / "dot.png"] * 2000
    names = [f"COD10K-CAM-1-Aquatic-7-Flounder-{i}" for i in range(2000)]
    per_image = {key: np.random.default_rng(0).random(2000) for key in METRICS}
    write_report([MethodResult("COD10K", "ours", names, dots, dots, [None] * 2000, per_image, {})], path, COLUMNS)
    numbers = path.stat().st_size / 2000

    print(f"bytes per image: {pictures:.0f} of pictures, {numbers:.0f} of numbers and the page")
    assert 10_000 < pictures + numbers < 30_000  # well under would be thumbnails smaller than they could be


def test_the_gallery_shows_the_worst_images_and_the_rest_of_the_page_counts_all(results, tmp_path):
    write_report(results[:2], tmp_path / "report.html", COLUMNS, limit=6)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "The gallery shows the worst 6 of 40 images, by IoU.5." in text
    dataset = Elements(text).data()["datasets"][0]
    values = [result.per_image["IoU_05"] for result in results[:2]]
    worst = {results[0].images[i] for column in values for i in np.argsort(column)[:3]}
    assert worst <= set(dataset["images"]) and len(dataset["images"]) == 6
    for m, result in enumerate(results[:2]):
        counted = dataset["distributions"]["IoU_05"]["methods"][m]
        assert counted["counts"] == np.histogram(values[m], 25, (0, 1))[0].tolist()
        assert counted["defined"] + counted["undefined"] == COUNT and counted["undefined"] == np.isnan(values[m]).sum()
        for name, value in zip(dataset["images"], dataset["methods"][m]["values"]["MAE"], strict=True):
            assert value is None or value == pytest.approx(result.per_image["MAE"][result.images.index(name)], rel=1e-5)
    assert set(Elements(text).scripts) == {"data", *(f"pictures-0-{i}" for i in range(6))}


def test_the_room_of_the_page_does_not_depend_on_the_number_of_images():
    names = [f"image {i}" for i in range(50_000)]
    method = MethodResult("A", "", names, names, names, names, {"S": np.random.default_rng(0).random(50_000)})
    keys = [key for key in METRICS if key in PER_IMAGE]
    assert 5_000 < count_room([method], len(keys)) < 12_000 and count_room([method] * 4, len(keys)) > 2_000
    (gallery,) = choose_galleries([[method]], keys, ["S"], METRICS, None)
    assert len(gallery.rows) == count_room([method], len(keys)) and gallery.total == 50_000
    worst = np.sort(method.per_image["S"])[len(gallery.rows) - 1]
    assert (method.per_image["S"][gallery.places[0]] <= worst).all()


def test_even_noise_fits_its_room():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert len(encode_webp(noise, 3000)) <= 4000
    assert len(encode_webp(noise, 3000, flat=True)) <= 4000
