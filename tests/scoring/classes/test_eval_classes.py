"""eval.py --classes: the files that it writes, the maps that it reads, and input that it refuses."""

import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from sam2unet.scoring import compare
from sam2unet.scoring.classes.compare import bootstrap_classes, permute_classes
from sam2unet.scoring.classes.confusion import score_classes
from sam2unet.scoring.report.pictures import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE, NOTHING
from tests.conftest import write_class_pairs

COLORS = [(0, 0, 0), (220, 20, 60), (0, 90, 200), (9, 9, 9)]
VALUES = [0, 300, 7, 40]  # 16 bits
NAMES = ["background", "liver", "=spleen", "kidney"]  # no mask and no map has a kidney
IGNORE = 65535


def write_classes(path, values=VALUES, ignore=IGNORE):
    rows = [f"  - {{name: '{name}', color: {list(color)}" for name, color in zip(NAMES, COLORS, strict=True)]
    ends = [f", value: {value}}}" for value in values] if values else ["}"] * len(rows)
    path.write_text("\n".join(["classes:", *map("".join, zip(rows, ends, strict=True)), f"ignore: {ignore}"]))
    return path


def make_arrays(count=5, shape=(30, 40)):
    """Indices of masks and of maps of two methods; 255 is ignored. The spleen is not in every image."""
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2] if i % 2 else [0, 1], shape) for i in range(count)]
    maps = {"good": 0.9, "bad": 0.5}
    maps = {
        method: [
            np.where(rng.random(shape) < right, mask, rng.integers(0, 3 - (i == 0), shape))
            for i, mask in enumerate(masks)
        ]
        for method, right in maps.items()
    }
    return [np.where(rng.random(shape) < 0.1, 255, mask) for mask in masks], maps


def save_values(path, indices, values=VALUES, ignore=IGNORE):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.full(256, ignore, np.uint16)
    table[: len(values)] = values
    Image.fromarray(table[indices]).save(path)


@pytest.fixture
def organs(tmp_path):
    """The flags for two methods on one data set of 16-bit masks, and the indices."""
    masks, maps = make_arrays()
    for i, mask in enumerate(masks):
        save_values(tmp_path / f"masks/{i}.png", mask)
        for method in maps:
            save_values(tmp_path / f"{method}/{i}.png", maps[method][i])
    file = write_classes(tmp_path / "classes.yaml")
    words = ["--classes", file, "--dataset_name", "CT", "CT", "--method", *maps]
    words += ["--pred_path", tmp_path / "good", tmp_path / "bad", "--gt_path", tmp_path / "masks", tmp_path / "masks"]
    return words, masks, maps


def one_method(folder, *names):
    return ["--classes", folder / "classes.yaml", "--dataset_name", "CT"] + [
        *("--pred_path", folder / (names[0] if names else "good"), "--gt_path", folder / "masks")
    ]


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_hold_the_scores_of_16_bit_masks(organs, evaluate, tmp_path):
    words, masks, maps = organs
    ended = evaluate(*words, "--save_dir", tmp_path / "out", "--workers", 2)
    assert ended.status == 0, ended.err
    assert "CT good: no mask and no map has kidney; such a class has no score" in ended.err
    names = ["classes.csv", "confusion.csv", "confusion_CT_bad.png", "confusion_CT_good.png", "per_image.csv"]
    names += ["results.json", "table.csv", "table.md", "table.tex"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    results = json.loads((tmp_path / "out/results.json").read_text())
    for method, arrays in maps.items():
        used = [mask != 255 for mask in masks]
        mask, prediction = (np.concatenate([a[u] for a, u in zip(x, used, strict=True)]) for x in (masks, arrays))
        table = results["datasets"]["CT"][method]
        both = [(mask[prediction == c] == c).sum() for c in range(3)]
        union = [((mask == c) | (prediction == c)).sum() for c in range(3)]
        ious = np.divide(both, union)
        assert [table[f"IoU_{name}"] for name in NAMES[:3]] == pytest.approx(ious, rel=1e-12)
        assert table["IoU_kidney"] is None and table["Dice_kidney_image"] is None
        assert table["mIoU"] == pytest.approx(ious.mean(), rel=1e-12)
        assert table["mIoU_fg"] == pytest.approx(ious[1:].mean(), rel=1e-12)
        assert table["accuracy"] == pytest.approx((mask == prediction).mean(), rel=1e-12)
        rows = [row for row in read_rows(tmp_path / "out/confusion.csv") if row["method"] == method]
        counted = [[int(value) for value in list(row.values())[3:6]] for row in rows]
        assert counted[:3] == [[((mask == a) & (prediction == b)).sum() for b in range(3)] for a in range(3)]
    rows = read_rows(tmp_path / "out/per_image.csv")
    assert len(rows) == 2 * 5 * 4
    spleens = [row for row in rows if row["method"] == "good" and row["class"] == "'=spleen"]
    table = results["datasets"]["CT"]["good"]
    assert np.mean([float(row["Dice"]) for row in spleens if row["Dice"]]) == pytest.approx(table["Dice_=spleen_image"])
    assert spleens[0]["IoU"] == "" and spleens[0]["union"] == "0"  # neither in the mask nor in the map
    both, union = (sum(int(row[key]) for row in spleens) for key in ("intersection", "union"))
    assert both / union == pytest.approx(table["IoU_=spleen"], rel=1e-12)
    (spleen,) = [r for r in read_rows(tmp_path / "out/classes.csv") if r["method"] == "bad" and "spleen" in r["class"]]
    assert float(spleen["IoU"]) == results["datasets"]["CT"]["bad"]["IoU_=spleen"] and int(spleen["images"]) == 4


def test_protocols_choose_the_printed_columns(organs, evaluate, tmp_path):
    titles = {
        "semantic": ["mIoU", "mIoU_fg", "accuracy", "mean_accuracy", "fw_IoU"],
        "medical": ["mDice_fg", "mDice_image_fg", "mIoU_fg", "mHD95_fg", "mASSD_fg", "mNSD_fg"],
    }
    scores = {"semantic": ["IoU"], "medical": ["Dice", "Dice_image", "HD95", "ASSD", "NSD"]}
    outputs = {name: evaluate(*organs[0], "--protocol", name).out for name in titles}
    for name, text in outputs.items():
        lines = [line.split() for line in text.splitlines()]
        assert lines[0] == ["dataset", "method", "images", *titles[name]]
        assert lines[4] == ["dataset", "method", "class", "images", "pixels", *scores[name]]
        assert ["CT", "good", "kidney", "0", "0.000", *["--"] * len(scores[name])] in lines
    assert outputs["semantic"] == evaluate(*organs[0]).out
    refused = evaluate(*organs[0], "--protocol", "polyp")
    assert refused.err == "error: no protocol named polyp; give one of semantic, medical"
    assert evaluate(*one_method(tmp_path)[2:], "--protocol", "medical").status == 2
    assert "fw_IoU" in evaluate("--legend", "--classes", tmp_path / "classes.yaml").out


def test_the_number_of_processes_does_not_change_class_scores(organs, evaluate, tmp_path):
    for workers in (1, 2):
        evaluate(*organs[0], "--workers", workers, "--save_dir", tmp_path / f"out{workers}")
    for name in ("per_image.csv", "table.csv", "confusion.csv", "confusion_CT_good.png"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def test_methods_are_compared_by_a_bootstrap_over_images(organs, evaluate, tmp_path, monkeypatch):
    ended = evaluate(*organs[0], "--save_dir", tmp_path / "out")
    (line,) = [line.split() for line in ended.out.splitlines() if "bad - good" in line and " mIoU " in line]
    assert line[-1] == "worse"
    stored = json.loads((tmp_path / "out/results.json").read_text())
    table, numbers = stored["datasets"]["CT"], stored["comparison"]["datasets"]["CT"]["methods"]["bad"]
    for key in ("mIoU", "mDice_image_fg", "IoU_liver"):
        assert numbers[key]["difference"] == pytest.approx(table["bad"][key] - table["good"][key], abs=1e-12)
        assert numbers[key]["low"] < numbers[key]["difference"] < numbers[key]["high"] < 0
    assert numbers["IoU_kidney"]["difference"] is None and numbers["IoU_kidney"]["low"] is None
    # Each resample is a data set in which an image can occur several times.
    monkeypatch.setattr(compare, "RESAMPLES", 40)
    rng = np.random.default_rng(1)
    method, baseline = (rng.integers(1, 9, (6, 3, 3)) * [[[1], [3], [4]]] for _ in range(2))
    (weights,) = compare.draw_weights(6, 6)
    assert (weights.sum(1) == 6).all()
    values = [
        [score_classes(np.repeat(c, times.astype(int), axis=0), list("abc"))["mIoU"] for times in weights]
        for c in (method, baseline)
    ]
    low, high = np.percentile(np.subtract(*values), [2.5, 97.5])
    means, lows, highs = bootstrap_classes([(method, None), (baseline, None)], ["mIoU"], list("abc"))
    assert (lows[0], highs[0]) == pytest.approx((low, high), rel=1e-12)


def test_the_p_value_of_classes_counts_all_swaps_of_maps():
    rng = np.random.default_rng(2)
    both, rest = rng.integers(0, 9, (2, 5, 3)), rng.integers(0, 9, (2, 2, 5, 3))
    method, baseline = (np.stack([b, b + r[0], b + r[1]], axis=1) for b, r in zip(both, rest, strict=True))
    values = []
    for swaps in itertools.product((False, True), repeat=5):
        swap = np.array(swaps)[:, None, None]
        pair = np.where(swap, baseline, method), np.where(swap, method, baseline)
        first, second = (score_classes(counts, list("abc")) for counts in pair)
        values.append([abs(first[key] - second[key]) for key in ("mIoU", "Dice_c_image")])
    expected = (np.array(values) >= np.array(values[0]) - 1e-12).mean(0)
    found = permute_classes([(method, None), (baseline, None)], ["mIoU", "Dice_c_image"], list("abc"))
    np.testing.assert_allclose(found, expected)


def test_palette_maps_are_scored_against_rgb_masks_by_colour(evaluate, tmp_path):
    masks, maps = make_arrays()
    write_classes(tmp_path / "classes.yaml", None, "[255, 255, 255]")
    palette = np.full((256, 3), 255, np.uint8)
    palette[:4] = COLORS
    for i, mask in enumerate(masks):
        for folder, indices in (("masks", mask), ("good", maps["good"][i])):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = Image.fromarray(indices.astype(np.uint8), "P")
            image.putpalette(palette.tobytes())
            image = image.convert("RGB") if folder == "masks" else image
            image.save(tmp_path / folder / f"{i}.png")
    ended = evaluate(*one_method(tmp_path), "--save_dir", tmp_path / "out")
    assert ended.status == 0, ended.err
    used = [(m[m != 255], p[m != 255]) for m, p in zip(masks, maps["good"], strict=True)]
    right, total = sum((m == p).sum() for m, p in used), sum(m.size for m, _ in used)
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["datasets"]["CT"][""]["accuracy"] == pytest.approx(right / total, rel=1e-12)


def test_maps_of_test_py_are_scored(evaluate, test_py, class_checkpoint, tmp_path):
    images, masks, file = write_class_pairs(tmp_path)
    words = ("--checkpoint", class_checkpoint, "--test_image_path", images, "--save_path", tmp_path / "maps")
    assert test_py(*words, "--size", 64).status == 0
    words = ("--classes", file, "--dataset_name", "x", "--pred_path", tmp_path / "maps", "--gt_path", masks)
    ended = evaluate(*words, "--save_dir", tmp_path / "out")
    assert ended.status == 0, ended.err
    pairs = [
        [np.asarray(Image.open(folder / path.name)) for folder in (masks, tmp_path / "maps")]
        for path in masks.iterdir()
    ]
    right, total = sum((m == p).sum() for m, p in pairs), sum((m != 255).sum() for m, _ in pairs)
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["datasets"]["x"][""]["accuracy"] == pytest.approx(right / total, rel=1e-12)


def test_missing_maps_are_an_error_or_the_first_class_or_left_out(organs, evaluate, tmp_path):
    (tmp_path / "good/3.png").unlink()
    assert "1 of 5 masks have no prediction" in evaluate(*one_method(tmp_path)).err
    counts = {}
    for missing in ("zero", "skip"):
        assert evaluate(*one_method(tmp_path), "--missing", missing, "--save_dir", tmp_path / missing).status == 0
        rows = read_rows(tmp_path / missing / "per_image.csv")
        counts[missing] = {row["class"]: int(row["map_pixels"]) for row in rows if row["image"] == "3"}
    assert counts["skip"] == {}
    assert counts["zero"].pop("background") == (organs[1][3] != 255).sum() and not any(counts["zero"].values())


def test_maps_of_another_size_are_resized_by_nearest_neighbour(organs, evaluate, tmp_path):
    mask = np.repeat(np.repeat(organs[2]["good"][0][:10, :10], 2, 0), 2, 1)
    save_values(tmp_path / "masks/0.png", mask)
    save_values(tmp_path / "good/0.png", mask[::2, ::2])
    refused = evaluate(*one_method(tmp_path))
    assert refused.err.startswith("error: 1 predictions have another size than their mask: 0.png (10x10, mask 20x20)")
    ended = evaluate(*one_method(tmp_path), "--resize", "--save_dir", tmp_path / "out")
    assert "1 predictions were resized to the size of their mask, nearest neighbour: 0" in ended.err
    rows = [row for row in read_rows(tmp_path / "out/per_image.csv") if row["image"] == "0"]
    assert [row["IoU"] for row in rows] == ["1.0", "1.0", "", ""]


def test_bad_values_and_flags_are_refused_in_one_line(organs, evaluate, tmp_path):
    words = one_method(tmp_path)
    save_values(tmp_path / "good/1.png", np.full((30, 40), 255))
    assert "good/1.png has a pixel of no class; a map has only the classes" in evaluate(*words).err
    for name in ("1", "4"):
        save_values(tmp_path / f"good/{name}.png", np.zeros((30, 40), int), values=[11])
    text = f"error: 2 files in {tmp_path / 'good'} have values of no class: 11 (2,400 pixels in 2 files: 1.png, 4.png)"
    assert evaluate(*words, "--workers", 2).err.startswith(text)
    ended = evaluate(*words, "--mask_threshold", 3, "--plots", "--save_dir", tmp_path / "out")
    assert ended.err.startswith("error: --classes does not go with --mask_threshold, --plots")
    assert evaluate(*words, "--from", tmp_path / "per_image.csv").status == 2
    assert not (tmp_path / "out").exists()


def test_a_picture_of_the_user_is_not_overwritten(organs, evaluate, tmp_path):
    path = tmp_path / "mine/confusion_CT.png"
    path.parent.mkdir()
    path.write_text("mine")
    ended = evaluate(*one_method(tmp_path), "--save_dir", path.parent)
    assert "holds confusion_CT.png, which this project did not write" in ended.err and path.read_text() == "mine"
    words = organs[0]
    words[words.index("--method") + 1 : words.index("--pred_path")] = ["a/b", "a_b"]
    ended = evaluate(*words, "--save_dir", tmp_path / "out")
    assert "two results would write their picture to confusion_CT_a_b.png" in ended.err and not ended.out


def test_browser_shows_the_pictures_and_scores_of_the_chosen_class(organs, evaluate, tmp_path, browser):
    words, masks, maps = organs
    assert evaluate(*words, "--save_dir", tmp_path / "out", "--report").status == 0
    browser.get((tmp_path / "out/report.html").as_uri())
    # Returns the pixels of the first mask, map and errors, once they are drawn, and the titles of the distributions.
    look = """
        const [chosen, done] = arguments, select = document.querySelector("[name=shown]");
        select.value = chosen;
        select.dispatchEvent(new Event("input", { bubbles: true }));
        const read = canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        const wait = () => {
            const canvases = [...document.querySelectorAll("[data-image='1'] canvas")].slice(0, 3).map(read);
            if (canvases.length < 3 || canvases.some(pixels => pixels[3] === 0)) return setTimeout(wait, 20);
            done([canvases, [...document.querySelectorAll("#distributions figcaption")].map(e => e.textContent)]);
        };
        wait();"""
    mask, map_ = masks[1], maps["good"][1]
    colors = np.array([*COLORS, *[(40, 40, 40)] * 252], np.uint8)
    (shown_mask, shown_map, errors), titles = browser.execute_async_script(look, "")
    assert (np.reshape(shown_mask, (30, 40, 4))[..., :3] == colors[mask]).all()
    assert (np.reshape(shown_map, (30, 40, 4))[..., :3] == colors[map_]).all()
    right = np.array([FALSE_POSITIVE, AGREED])[(mask == map_).astype(int)]
    expected = np.where((mask == 255)[..., None], NOTHING, right)
    assert (np.reshape(errors, (30, 40, 4))[..., :3] == expected).all()
    assert titles == ["accuracy ↑"]
    (_, _, errors), titles = browser.execute_async_script(look, "1")
    expected = np.array([NOTHING, FALSE_POSITIVE, FALSE_NEGATIVE, AGREED])[(map_ == 1) + 2 * (mask == 1)]
    expected[mask == 255] = NOTHING
    assert (np.reshape(errors, (30, 40, 4))[..., :3] == expected).all()
    assert titles == ["IoU_liver ↑", "Dice_liver ↑"]
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
