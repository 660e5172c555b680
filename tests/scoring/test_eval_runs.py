"""eval.py: several data sets and methods, the files that it writes, and input that it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, save
from tests.scoring.made_up import FOUR, flags


def test_several_data_sets_and_methods_in_one_call(evaluate, sets):
    result = evaluate(*flags(sets, *FOUR), "--save_dir", sets / "out", "--verify", 5)
    assert result.status == 0, result.err
    assert "verified 5 pairs with py-sod-metrics" in result.out
    found = json.loads((sets / "out/results.json").read_text())
    table = {(dataset, method): values for dataset, ms in found["datasets"].items() for method, values in ms.items()}
    assert set(table) == set(FOUR)
    single = evaluate(*flags(sets, ("B", "bad")), "--save_dir", sets / "alone")
    assert single.status == 0, single.err
    assert json.loads((sets / "alone/results.json").read_text())["datasets"]["B"]["bad"] == table["B", "bad"]
    assert table["A", "good"]["S"] > table["A", "bad"]["S"] and table["A", "good"]["MAE"] < table["A", "bad"]["MAE"]
    with open(sets / "out/per_image.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "A" and row["method"] == "good"]
    assert len(rows) == 6
    assert np.mean([float(row["Fw"]) for row in rows]) == pytest.approx(table["A", "good"]["Fw"], abs=1e-15)
    words = ["--from", sets / "out/per_image.csv", "--protocol", "all", "--save_dir", sets / "again"]
    again = evaluate(*words)
    assert "left out: E_max, F_max" in again.err
    assert f"{table['B', 'good']['Dice_05']:.3f}" in again.out
    assert (sets / "again/per_image.csv").read_text() == (sets / "out/per_image.csv").read_text()
    assert evaluate(*words, "--plots").err.startswith("error: --plots and --report need the images")


def test_a_file_of_data_sets_says_the_same_as_flags(evaluate, sets):
    (sets / "sets.yaml").write_text(
        "datasets:\n"
        "  A: {masks: A/masks, predictions: {good: A/good, bad: A/bad}}\n"
        "  B: {masks: B/masks, predictions: {good: B/good, bad: B/bad}}\n"
    )
    by_file = evaluate("--config", sets / "sets.yaml")
    assert by_file.status == 0, by_file.err
    assert by_file.out == evaluate(*flags(sets, *FOUR)).out


def test_two_folders_without_names_are_compared_in_all_tables(evaluate, sets):
    words = flags(sets, ("A", "good"), ("A", "bad"))
    words = words[: words.index("--method")]
    ended = evaluate(*words, "--protocol", "salient", "--save_dir", sets / "out", "--report")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[0].split() == ["dataset", "method", "images", "S", "mE", "MAE", "maxF", "mF"]
    numbers = json.loads((sets / "out/results.json").read_text())["comparison"]["datasets"]["A"]["methods"]["bad"]
    # All six images prefer one method: 2 of the 64 patterns are as extreme. Holm counts the four means over images.
    assert numbers["S"]["p"] == pytest.approx(2 / 64) and numbers["S"]["p_holm"] == pytest.approx(4 * 2 / 64)
    assert numbers["Fw"]["p"] == pytest.approx(2 / 64) and numbers["Fw"]["p_holm"] is None  # not in the table
    cells = [f"{numbers['MAE']['difference']:+.4f}", f"[{numbers['MAE']['low']:+.4f}, {numbers['MAE']['high']:+.4f}]"]
    (line,) = [line.split() for line in ended.out.splitlines() if " - " in line and " MAE " in line]
    assert line == ["A", "bad", "-", "good", "MAE", "6", cells[0], *cells[1].split(), "0.1250", "worse"]
    row = f"| A | bad - good | MAE | 6 | {cells[0]} | {cells[1]} | 0.1250 | worse |"
    assert row in (sets / "out/table.md").read_text().splitlines()
    latex = (sets / "out/table.tex").read_text()
    assert f" & bad - good & MAE & 6 & ${cells[0]}$ & ${cells[1]}$ & 0.1250 \\\\" in latex.splitlines()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    page = (sets / "out/report.html").read_text()
    assert f"<td>{cells[0]}<td>{cells[1]}<td>0.1250" in page and "eval.py --workers 1 --dataset_name A A" in page


def test_the_number_of_processes_changes_nothing(evaluate, sets):
    for workers in (1, 3):
        evaluate(*flags(sets, *FOUR), "--workers", workers, "--save_dir", sets / str(workers))
    assert (sets / "1/per_image.csv").read_text() == (sets / "3/per_image.csv").read_text()


def test_missing_predictions_are_an_error_or_black_or_left_out(evaluate, sets):
    (sets / "A/good/3.png").unlink()
    words = flags(sets, ("A", "good"))
    refused = evaluate(*words)
    assert refused.status == 2 and "1 of 6 masks have no prediction: 3.png" in refused.err
    for missing, images in (("skip", 5), ("zero", 6)):
        result = evaluate(*words, "--missing", missing, "--save_dir", sets / missing)
        assert "1 of 6 masks have no prediction: 3.png" in result.err
        assert f"A        good         {images}" in result.out
    save(sets / "A/good/3.png", np.zeros((40, 50), np.uint8))
    evaluate(*words, "--save_dir", sets / "black")
    read = [json.loads((sets / name / "results.json").read_text())["datasets"] for name in ("zero", "black")]
    assert read[0] == read[1]


def test_maps_of_another_size_are_resized_only_if_asked(evaluate, sets):
    Image.open(sets / "A/good/2.png").resize((25, 20)).save(sets / "A/good/2.png")
    refused = evaluate(*flags(sets, ("A", "good")), "--save_dir", sets / "out")
    assert refused.status == 2 and "2.png (25x20, mask 50x40)" in refused.err
    assert not list((sets / "out").iterdir())
    resized = evaluate(*flags(sets, ("A", "good")), "--resize")
    assert resized.status == 0 and "1 predictions were resized to the size of their mask, bilinear: 2" in resized.err


def test_binary_faint_and_jpeg_files_are_told(evaluate, sets):
    for index in range(6):
        grey = np.asarray(Image.open(sets / f"A/good/{index}.png")) > 128
        save(sets / f"A/binary/{index}.png", grey.astype(np.uint8) * 255)
        save(sets / f"A/faint/{index}.png", grey.astype(np.uint8))
        Image.open(sets / f"A/masks/{index}.png").save(sets / f"A/masks/{index}.jpg", quality=70)
        (sets / f"A/masks/{index}.png").unlink()
    told = evaluate(*flags(sets, ("A", "binary"), ("A", "faint")))
    assert told.status == 0, told.err
    assert "A binary: all 6 predictions are binary" in told.err
    assert "A faint: 6 predictions have two grey levels, none above 128, as if they were written as 0/1" in told.err
    assert "6 masks are JPEGs with grey edges" in told.err
    rows = [line.split() for line in told.out.splitlines()[1:3]]
    assert rows[0][2:] == rows[1][2:]  # stretched before scoring, so that they score alike


@pytest.mark.parametrize(
    "words, text",
    [
        (["--dataset_name", "A", "B"], "2 --dataset_name, but 1 --pred_path, 1 --gt_path; give one each"),
        (["--method", "x", "y"], "1 --dataset_name, but 2 --method"),
        (["--protocol", "fish"], "no protocol named fish; give one of released, camouflaged"),
        (["--expect", "unet"], "no published figures are known for 'unet'; give one of sam2-unet"),
        (["--plots"], "--plots and --report need --save_dir"),
        (["--config", "sets.yaml"], "give --dataset_name with --pred_path and --gt_path, or --config, or --from"),
        (["--missing", "guess"], "invalid choice: 'guess'"),
        (["--workers", "-1"], "workers is -1"),
        (["--workers", "5000"], "workers is 5000; it must be from 0 to 1024"),
        (["--verify", "-1"], "verify is -1"),
        (["--protocol", "mirror", "--verify", 2], "--verify does not go with --protocol mirror"),
        (["--protocol", "medical", "--backend", "pysodmetrics"], "--backend pysodmetrics does not go with --protocol"),
        (["--report_images", 3], "--report_images needs --report"),
        (["--save_dir", __file__], "Give another --save_dir."),
    ],
)
def test_flags_that_do_not_fit(words, text, evaluate, sets):
    result = evaluate(*flags(sets, ("A", "good")), *words)
    assert result.status == 2 and text in result.err and len(result.err.splitlines()) == 1


def test_flags_that_another_flag_would_ignore_are_refused(evaluate, sets):
    (sets / "sets.yaml").write_text("datasets:\n  A: {masks: A/masks, predictions: {good: A/good}}\n")
    config = ["--config", sets / "sets.yaml", "--method", "best"]
    assert evaluate(*config).err == "error: --config does not go with --method, which are in its file"
    assert evaluate(*flags(sets, ("A", "good")), "--save_dir", sets / "out").status == 0
    table = ["--from", sets / "out/per_image.csv", "--verify", 3, "--mask_threshold", 0]
    ended = evaluate(*table)
    assert ended.status == 2 and "--from does not go with --mask_threshold, --verify" in ended.err


def test_published_figures_of_other_data_sets_are_a_warning(evaluate, sets):
    words = flags(sets, ("A", "good"))
    ended = evaluate(*words, "--expect", "sam2-unet")
    assert ended.status == 0 and ended.err.startswith("warning: --expect sam2-unet has no figure for these data sets")
    words[words.index("A")] = "camo"
    assert "paper" in (ended := evaluate(*words, "--expect", "sam2-unet")).out and not ended.err


def test_a_plot_of_the_user_is_not_overwritten(evaluate, sets):
    path = sets / "mine/curves_A.csv"
    path.parent.mkdir()
    path.write_text("mine")
    ended = evaluate(*flags(sets, ("A", "good")), "--plots", "--save_dir", path.parent)
    assert "holds curves_A.csv, which this project did not write" in ended.err and path.read_text() == "mine"


def test_a_run_stopped_while_it_writes_leaves_the_old_files(evaluate, start, sets, shared):
    assert evaluate(*flags(sets, ("A", "good")), "--save_dir", sets / "out").status == 0
    before = {path.name: path.read_bytes() for path in (sets / "out").iterdir()}
    folder = shared / "data/maps_sod_dss"
    words = ["--dataset_name", "SOD", "--pred_path", folder / "preds", "--gt_path", folder / "masks", "--report"]
    started = start("eval.py", *words, "--save_dir", sets / "out")
    while not list((sets / "out").glob(".*.part")) and started.poll() is None:
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGINT)
    ended = started.finish()
    assert ended.returncode == 130 and ended.stderr.splitlines() == ["stopped"]
    assert {path.name: path.read_bytes() for path in (sets / "out").iterdir()} == before


def test_a_pool_after_scoring_in_the_same_process_ends(sets):
    """OpenCV's threads do not survive a fork; a pool made beside them would wait for ever."""
    code = (
        "import pathlib, sys; from sam2unet.scoring.score_folders import Entry, score_entries\n"
        "from sam2unet.scoring.score_pair import ScoreOptions; folder = pathlib.Path(sys.argv[1])\n"
        "entry = Entry('A', '', folder / 'good', folder / 'masks')\n"
        "one, two = (score_entries([entry], ScoreOptions(), workers=n)[0].table for n in (1, 2)); assert one == two\n"
    )
    subprocess.run([sys.executable, "-c", code, sets / "A"], cwd=ROOT, check=True, timeout=60)


def test_scoring_does_not_import_torch():
    """The import takes seconds, which each call of eval.py would wait for."""
    code = "import sys, sam2unet.cli, sam2unet.scoring.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
