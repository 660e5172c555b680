"""The HTML report: what the file holds, and how it behaves in a real browser (Chromium, headless)."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.errors import UserError
from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.columns import METRICS
from sam2unet.scoring.pixels.calibration import measure_ece
from sam2unet.scoring.report.page import rank_classes, write_report
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
from tests.conftest import save

HOSTILE = "</script><b>\"'é&amp;<!--"
COLUMNS = ("IoU_05", "MAE")
COUNT = 40  # more than the gallery draws at once


def scored(map_path: Path, mask_path: Path) -> dict[str, float]:
    """MAE, IoU at 0.5 and, for curves, precision and recall at the cuts >= 255, 254, ..., 0."""
    grey, mask = (np.asarray(Image.open(path).convert("L")) for path in (map_path, mask_path))
    mask, cuts = mask > 128, np.arange(255, -1, -1)
    hits, all_found = ((x[None] >= cuts[:, None]).sum(1) for x in (grey[mask], grey.ravel()))
    both, either = (mask & (grey > 127)).sum(), (mask | (grey > 127)).sum()
    return {
        "MAE": np.abs(grey / 255 - mask).mean(),
        "IoU_05": both / either if either else np.nan,
        "precision": hits / np.maximum(all_found, 1),
        "recall": hits / max(mask.sum(), 1),
        "level_pixels": np.bincount(grey.ravel().astype(int), minlength=256),
        "level_foreground": np.bincount(grey[mask].astype(int), minlength=256),
    }


def result_of(dataset: str, method: str, predictions, masks, photographs=None) -> MethodResult:
    scores = [scored(*files) for files in zip(predictions, masks, strict=True)]
    per_image = {key: np.array([score[key] for score in scores]) for key in ("IoU_05", "MAE")}
    precision, recall = (np.mean([score[key] for score in scores], axis=0) for key in ("precision", "recall"))
    levels = {key: np.mean([score[key] for score in scores], axis=0) for key in ("level_pixels", "level_foreground")}
    f = 1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-9)
    return MethodResult(
        dataset=dataset,
        method=method,
        images=[path.stem for path in masks],
        predictions=list(predictions),
        masks=list(masks),
        photographs=photographs or [None] * len(masks),
        per_image=per_image,
        curves={"precision": precision, "recall": recall, "F": f, "E": f} | levels,
        table={key: float(np.nanmean(values)) for key, values in per_image.items()},
    )


def made_up(folder: Path, dataset: str, count: int, methods: list[str], with_photographs: bool) -> list[MethodResult]:
    """Rectangles, and maps of them with noise."""
    rng = np.random.default_rng(len(dataset))
    masks, photographs, maps = [], [], {method: [] for method in methods}
    for i in range(count):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 16 + i % 20, 10:34] = 255
        masks.append(folder / dataset / f"masks/{i:03}.png")
        photographs.append(folder / dataset / f"images/{i:03}.png" if with_photographs else None)
        save(masks[-1], mask)
        if with_photographs:
            save(photographs[-1], rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        for m, method in enumerate(methods):
            maps[method].append(folder / dataset / f"map{m}/{i:03}.png")
            noise = rng.normal(0, rng.uniform(20, 120), mask.shape)
            noisy = np.clip(mask + noise, 0, 255)
            noisy[0, :2] = 0, 255  # as stretched as it gets
            save(maps[method][-1], noisy.astype(np.uint8))
    return [result_of(dataset, method, maps[method], masks, photographs) for method in methods]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[MethodResult]:
    """Two data sets, two methods; a name that is an attack, a missing prediction, an undefined score."""
    folder = tmp_path_factory.mktemp("pairs")
    first = made_up(folder, "Camo & <i>co</i>", COUNT, ["ours", "theirs <b>"], with_photographs=True)
    for result in first:
        result.images[5] = HOSTILE
    first[1].predictions[7] = None
    first[1].per_image["MAE"][7] = first[1].per_image["IoU_05"][7] = np.nan
    return first + made_up(folder, "Plain", 3, ["ours", "theirs <b>"], with_photographs=False)


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(results, path, COLUMNS)
    return path


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


def test_best_and_second_as_printed_and_none_for_one_method():
    assert rank_classes([0.8004, 0.9, 0.80, 0.7, np.nan], higher=True) == ["second", "best", "second", "", ""]
    assert rank_classes([0.1, 0.2, 0.3], higher=False) == ["best", "second", ""]
    assert rank_classes([0.5], higher=True) == [""]


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


def test_even_noise_fits_its_room():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert len(encode_webp(noise, 3000)) <= 4000
    assert len(encode_webp(noise, 3000, flat=True)) <= 4000


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    return browser


def found(browser, css: str) -> list:
    return browser.find_elements("css selector", css)


def set_control(browser, **values: str) -> None:
    """As a user's choice would: the value, then the event."""
    for name, value in values.items():
        script = """const control = document.getElementById("controls").elements[arguments[0]];
            control.value = arguments[1];
            if (control.value !== arguments[1]) throw new Error("no such choice: " + arguments[1]);
            control.dispatchEvent(new Event("input", { bubbles: true }));"""
        browser.execute_script(script, name, value)


def rows(browser) -> list[int]:
    """Indices of the images in the gallery, all of them drawn, in order."""
    script = """const more = document.getElementById("more");
        while (!more.hidden) more.click();
        return [...document.querySelectorAll(".row")].map(row => Number(row.dataset.image));"""
    return browser.execute_script(script)


def press(browser, key: str) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    webdriver.ActionChains(browser).send_keys(getattr(webdriver.Keys, key)).perform()


def worst_first(values: np.ndarray, higher: bool) -> list[int]:
    return np.argsort(values if higher else -values, kind="stable").tolist()  # NaN comes last


def test_browser_shows_tables_curves_and_distributions(opened, results):
    assert opened.title.startswith("sam2unet report")
    cells = [cell.text for cell in found(opened, "#tables td")]
    assert cells == [f"{result.table[key]:.3f}" for result in results for key in COLUMNS]
    assert [h.get_attribute("title") for h in found(opened, "#tables th[title]")[:2]] == [
        METRICS[key].legend for key in COLUMNS
    ]
    assert len(found(opened, "#curves figure")) == 2 * 4
    assert len(found(opened, "#curves path.line")) == 2 * 4 * 2
    assert len(found(opened, "#distributions figure")) == 2 * len(COLUMNS)
    best = results[0].curves["F"].argmax()
    curves = [results[0].curves[name] for name in ("level_pixels", "level_foreground")]
    assert found(opened, "#curves output")[6].text == f"ECE {measure_ece(*curves):.4f}"
    assert f"{results[0].curves['F'][best]:.3f} at {255 - best}" in found(opened, "#curves output")[2].text


def test_browser_sorts_by_any_metric_of_any_method(opened, results):
    assert rows(opened) == worst_first(results[0].per_image["IoU_05"], higher=True)
    set_control(opened, sort="MAE")
    assert rows(opened) == worst_first(results[0].per_image["MAE"], higher=False)
    set_control(opened, by="1")
    assert rows(opened) == worst_first(results[1].per_image["MAE"], higher=False)
    assert rows(opened)[-1] == 7
    set_control(opened, order="best")
    assert rows(opened) == worst_first(results[1].per_image["MAE"], higher=True)
    assert rows(opened)[-1] == 7  # the undefined one is last both ways
    assert "no prediction" in found(opened, "article[data-image='7']")[0].text
    shown = [row.text for row in found(opened, ".row figure:nth-child(3) b")[:3]]
    assert shown == [f"MAE {value:.3f}" for value in np.sort(results[1].per_image["MAE"])[:3]]


def test_browser_draws_rows_as_they_come_near(opened):
    assert len(found(opened, ".row")) < COUNT
    opened.execute_async_script("""const done = arguments[0];
        window.scrollTo(0, document.body.scrollHeight);
        const wait = () => document.querySelectorAll(".row").length === 40 ? done() : setTimeout(wait, 20);
        wait();""")


def test_browser_filters_by_name_and_by_number(opened, results):
    values = results[0].per_image["MAE"]
    limit = float(np.median(values))
    set_control(opened, limited="MAE", limit=str(limit))
    assert set(rows(opened)) == set(np.flatnonzero(values < limit).tolist())
    set_control(opened, side="above")
    assert set(rows(opened)) == set(np.flatnonzero(values > limit).tolist())
    set_control(opened, limit="", text="03")
    assert set(rows(opened)) == {3, *range(30, 40)}
    assert found(opened, "#count")[0].text == "11 of 40 images"
    set_control(opened, text="</SCRIPT>")
    assert rows(opened) == [5]
    assert found(opened, ".row button")[0].text == HOSTILE
    set_control(opened, text="no such name")
    assert rows(opened) == []
    found(opened, "button[type=reset]")[0].click()
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(rows(opened)) == COUNT


def test_browser_enlarges_moves_by_arrows_and_closes(opened, results):
    order = worst_first(results[0].per_image["IoU_05"], higher=True)
    found(opened, ".row img")[0].click()
    dialog, name = found(opened, "#enlarged")[0], found(opened, "#enlarged-name")[0]
    assert dialog.is_displayed() and name.text == results[0].images[order[0]]
    assert [cell.text for cell in found(opened, "#enlarged td")] == [
        f"{result.per_image[key][order[0]]:.3f}" for key in COLUMNS for result in results[:2]
    ]
    small, large = found(opened, ".row img")[0].size, found(opened, "#enlarged img")[0].size
    assert large["width"] > 1.5 * small["width"]
    press(opened, "ARROW_LEFT")  # there is none before the first
    press(opened, "ARROW_RIGHT")
    press(opened, "ARROW_RIGHT")
    assert name.text == results[0].images[order[2]]
    press(opened, "ARROW_LEFT")
    assert name.text == results[0].images[order[1]]
    press(opened, "ESCAPE")
    assert not dialog.is_displayed()
    assert opened.switch_to.active_element.text == results[0].images[order[1]]
    press(opened, "ENTER")  # the keyboard suffices to open it again
    assert dialog.is_displayed()
    found(opened, "#close")[0].click()
    assert not dialog.is_displayed()


def test_browser_changes_the_data_set_and_leaves_out_photographs_that_are_not_there(opened):
    assert len(found(opened, ".row:first-child img")) == 6
    set_control(opened, set="1")
    assert len(rows(opened)) == 3
    assert len(found(opened, ".row:first-child img")) == 5


@pytest.mark.parametrize("width", [1280, 400])
def test_browser_needs_no_sideways_scrolling(opened, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return innerWidth") == width
        root = opened.find_element("css selector", "html")
        assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_asks_no_network_and_logs_nothing(browser, page):
    browser.get_log("browser"), browser.get_log("performance")  # reading empties them
    browser.get(page.as_uri())
    rows(browser)
    assert all(
        browser.execute_async_script("""const done = arguments[0];
        const loaded = [...document.images].map(image => image.decode().then(() => true, () => false));
        Promise.all(loaded).then(done);""")
    )
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:") for url in asked)
    assert browser.get_log("browser") == []
