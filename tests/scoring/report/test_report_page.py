"""The HTML report in a real browser (Chromium, headless)."""

import json
from contextlib import contextmanager

import numpy as np
import pytest

from sam2unet.scoring.columns import METRICS
from sam2unet.scoring.pixels.calibration import measure_ece
from tests.scoring.made_up import COLUMNS, COUNT, HOSTILE


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
    cells = [cell.text for cell in found(opened, "#tables table:not(.differences) td")]
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
    hint = found(opened, "#rows")[0].text
    assert 'No name contains "no such name". Names look like "000".' in hint and '"Reset" shows all images' in hint
    set_control(opened, text="", side="below", limit="0.001")
    low, high = values.min(), values.max()
    assert f"No MAE is below 0.001. It is between {low:.3f} and {high:.3f} for ours." in found(opened, "#rows")[0].text
    found(opened, "button[type=reset]")[0].click()
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(rows(opened)) == COUNT


def test_browser_shows_the_numbers_of_a_bar_beside_the_pointer(opened, results):
    values = results[0].per_image["IoU_05"]
    bins = np.histogram(values, 25, (0, 1))[0]
    opened.execute_script("document.getElementById('distributions').scrollIntoView()")
    bar = found(opened, "#distributions rect.hit")[bins.argmax()]
    actions = pytest.importorskip("selenium.webdriver").ActionChains(opened)
    actions.move_to_element(bar).perform()
    lines = found(opened, "#tooltip")[0].text.splitlines()
    share = bins.max() / COUNT
    assert lines[0] == f"IoU.5 {bins.argmax() / 25:.3f} to {(bins.argmax() + 1) / 25:.3f}"
    assert lines[1] == f"ours: {bins.max()} of {COUNT} images ({100 * share:.1f} %)" and lines[2].startswith(
        "theirs <b>"
    )
    actions.move_to_element(found(opened, "h1")[0]).perform()
    assert not found(opened, "#tooltip")[0].is_displayed()


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
    assert "--image_path DIR" in found(opened, "#no-photographs")[0].text
    set_control(opened, set="0")
    assert not found(opened, "#no-photographs")[0].is_displayed()


@pytest.mark.parametrize("width", [1280, 900, 400])
def test_browser_draws_all_pictures_of_an_image_at_one_size(opened, width):
    with window_of_width(opened, width):
        for place in (".row:first-child", "#enlarged"):
            pictures = found(opened, f"{place} .pair > *")
            assert len(pictures) == 6 and len({round(picture.rect["width"]) for picture in pictures}) == 1
            assert pictures[0].rect["width"] > 90
            pictures[0].click()
        press(opened, "ESCAPE")


@contextmanager
def window_of_width(browser, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return innerWidth") == width
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [1280, 400])
def test_browser_needs_no_sideways_scrolling(opened, width):
    with window_of_width(opened, width):
        root = opened.find_element("css selector", "html")
        assert root.get_property("scrollWidth") == root.get_property("clientWidth")


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
