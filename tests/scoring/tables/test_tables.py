"""Tables for the terminal, Markdown and LaTeX; CSV and JSON; published figures."""

import csv
import json
import math

import numpy as np
import pytest
import yaml

from sam2unet.errors import UserError
from sam2unet.scoring.aggregate import CURVE_METRICS, MethodResult
from sam2unet.scoring.columns import METRICS, RELEASED
from sam2unet.scoring.expected import find_figures, read_figures
from sam2unet.scoring.tables.csv_files import csv_table, per_image_csv, read_per_image_csv, results_json
from sam2unet.scoring.tables.score_tables import format_latex, format_legend, format_markdown, format_table


def result(dataset="CAMO", method="", images=3, per_image=None, **table):
    names = [f"image_{i}" for i in range(images)]
    return MethodResult(dataset, method, names, [], [], [], per_image or {}, {}, table)


def three_methods(*values, key="S"):
    return [result(method=name, **{key: value}) for name, value in zip("abc", values, strict=True)]


def latex_cells(text):
    """The rows of numbers, without names."""
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    return [line.split(" & ")[2:] for line in lines[1:]]


def test_one_data_set_prints_as_the_released_table_always_has():
    numbers = (0.92, 0.879, 0.9004, 0.8496, 0.86149, 1.0, 0.0214)
    assert format_table([result("Kvasir", images=100, **dict(zip(RELEASED, numbers, strict=True)))], RELEASED) == (
        "dataset  images  mDice   mIoU      S     wF   adpF     mE    MAE\n"
        "Kvasir      100  0.920  0.879  0.900  0.850  0.861  1.000  0.021"
    )


def test_several_methods_and_undefined_numbers():
    results = [result(method="ours", S=0.9, dichotomous_HCE=1043.6), result("COD10K", "SINet", 2026, S=math.nan)]
    assert format_table(results, ["S", "dichotomous_HCE"]) == (
        "dataset  method  images      S   HCE\n"
        "CAMO     ours         3  0.900  1044\n"
        "COD10K   SINet     2026     --    --"
    )


def test_published_figures_and_differences_stand_beside_ours():
    results = [result(S=0.8876, MAE=0.042, E_mean=0.9), result("mine", S=0.5, MAE=0.1, E_mean=0.9)]
    assert format_table(results, ["S", "MAE", "E_mean"], {"CAMO": {"S": 0.884, "MAE": 0.042}}) == (
        "dataset  images      S  paper    diff    MAE  paper   diff     mE\n"
        "CAMO          3  0.888  0.884  +0.004  0.042  0.042  0.000  0.900\n"
        "mine          3  0.500                 0.100                0.900"
    )


def test_the_printed_difference_is_that_of_the_printed_numbers():
    line = format_table([result(S=0.88449)], ["S"], {"CAMO": {"S": 0.885}}).splitlines()[1]
    assert line.split()[2:] == ["0.884", "0.885", "-0.001"]


@pytest.mark.parametrize(
    "key, values, cells",
    [
        ("S", (0.8, 0.9, 0.7), [r"\underline{0.800}", r"\textbf{0.900}", "0.700"]),
        ("MAE", (0.02, 0.03, 0.01), [r"\underline{0.020}", "0.030", r"\textbf{0.010}"]),
        ("S", (0.90012, 0.8, 0.89991), [r"\textbf{0.900}", r"\underline{0.800}", r"\textbf{0.900}"]),
        ("S", (0.9, 0.8, 0.8), [r"\textbf{0.900}", r"\underline{0.800}", r"\underline{0.800}"]),
        ("S", (math.nan, 0.8, 0.9), ["--", r"\underline{0.800}", r"\textbf{0.900}"]),
        ("S", (math.nan, 0.8, math.nan), ["--", "0.800", "--"]),
        ("dichotomous_HCE", (999, 1043, 1200), [r"\textbf{999}", r"\underline{1043}", "1200"]),
    ],
)
def test_latex_marks_best_and_second_as_printed(key, values, cells):
    assert [row[0] for row in latex_cells(format_latex(three_methods(*values, key=key), [key]))] == cells


def test_each_data_set_has_its_own_best():
    results = [result(d, m, S=s) for d, m, s in [("A", "x", 0.1), ("A", "y", 0.2), ("B", "x", 0.9), ("B", "y", 0.8)]]
    assert latex_cells(format_latex(results, ["S"])) == [
        [r"\underline{0.100}"],
        [r"\textbf{0.200}"],
        [r"\textbf{0.900}"],
        [r"\underline{0.800}"],
    ]


def test_one_method_has_no_best():
    assert "textbf" not in format_latex([result(S=0.9), result("COD10K", S=0.8)], ["S"])
    assert "**" not in format_markdown([result(method="ours", S=0.9)], ["S"])


def test_latex_escapes_names():
    text = format_latex([result("A_1 & B", r"50% {$#~^\}", S=0.9)], ["S"])
    assert r"A\_1 \& B & 50\% \{\$\#\textasciitilde{}\textasciicircum{}\textbackslash{}\} & 0.900 \\" in text
    text = format_latex([result("[7] A*", "x<y|z>", S=0.9)], ["S"])  # LaTeX would read [7] as a part of the row above
    assert r"{[}7] A{*} & x\textless{}y\textbar{}z\textgreater{} & 0.900 \\" in text


def test_markdown_rows_have_as_many_cells_as_titles():
    lines = format_markdown(three_methods(0.9, 0.8, 0.7)[:2] + [result(method="a|b", S=0.1)], ["S", "MAE"]).splitlines()
    assert lines[0] == "| dataset | method | images | S ↑ | MAE ↓ |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: |"
    assert lines[2] == "| CAMO | a | 3 | **0.900** | -- |"
    assert lines[3] == "| CAMO | b | 3 | <ins>0.800</ins> | -- |"
    assert lines[4] == r"| CAMO | a\|b | 3 | 0.100 | -- |"


def test_every_metric_has_a_legend_that_says_which_way_is_better():
    lines = format_legend(list(METRICS)).splitlines()
    assert len(lines) == len(METRICS)
    lower = {line.split()[0] for line in lines if line.endswith("; lower is better")}
    assert lower == {"MAE", "BER", "HCE", "HD", "HD95", "HD95p", "HD95s", "ASSD", "ECE", "Brier"}
    assert all(line.endswith(" is better") for line in lines)


def random_results(seed=0):
    rng = np.random.default_rng(seed)
    results = []
    for dataset, method in [('A, "B"', "x"), ('A, "B"', "y"), ("C", "x")]:
        per_image = {"S": rng.random(7), "MAE": rng.random(7) / 3}
        results.append(result(dataset, method, 7, per_image, S=per_image["S"].mean(), MAE=per_image["MAE"].mean()))
    results[0].per_image["S"][2] = math.nan
    results[0].table["S"] = np.delete(results[0].per_image["S"], 2).mean()
    results[2].per_image["IoU_05"] = rng.random(7)
    return results


def test_per_image_csv_read_back_gives_the_same_table(tmp_path):
    path = tmp_path / "per_image.csv"
    results = random_results()
    path.write_text("".join(per_image_csv(results)))
    found = read_per_image_csv(path)
    for old, new in zip(results, found, strict=True):
        assert (old.dataset, old.method, old.images) == (new.dataset, new.method, new.images)
        for key, values in old.per_image.items():
            np.testing.assert_array_equal(values, new.per_image[key])  # to the last bit
        for key, value in old.table.items():
            assert new.table[key] == pytest.approx(value, rel=1e-15)
    assert format_table(found, ["S", "MAE"]) == format_table(results, ["S", "MAE"])
    assert math.isnan(found[0].table["IoU_05"]) and not set(CURVE_METRICS) & set(found[0].table)


GOOD = "dataset,method,image,S,MAE\nA,x,one,0.5,0.25\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "does not start with dataset,method,image"),
        ("dataset;method;image;S\nA;x;one;0,5\n", "does not start with dataset,method,image"),
        ("dataset,method,images,S\nA,x,7,0.5\n", "does not start with dataset,method,image"),
        ("dataset,method,image,S,F_max\nA,x,one,0.5,0.6\n", "F_max"),
        ("dataset,method,image,S,S\nA,x,one,0.5,0.6\n", "occur twice: S"),
        ("dataset,method,image,S\n", "a title line but no images"),
        (GOOD + "A,x,two,0.5\n", "line 3 has 4 cells instead of 5"),
        (GOOD + "A,x,two,high,0.1\n", "line 3: S is 'high', not a number"),
        (GOOD + "A,x,two,0.5,inf\n", "line 3: MAE is 'inf', not a number"),
        (GOOD + "A,x,two,0.5,-5\n", "line 3: MAE is '-5', not a number from 0 to 1"),
        (GOOD + "A,x,two,1_0,0.1\n", "line 3: S is '1_0', not a number from 0 to 1"),
        (GOOD.replace("S", "dichotomous_HCE") + "A,x,two,1e308,0.1\n", "is '1e308', not a number of 0 or more"),
        (GOOD + "A,x,one,0.5,0.1\n", "line 3: A x one occurs twice"),
        ("dataset,method,image,class,IoU\nA,x,one,road,0.5\n", "has scores of classes, which --from cannot read"),
    ],
)
def test_what_is_no_per_image_csv_is_refused_in_one_line(text, words, tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_per_image_csv(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.csv: No such file"):
        read_per_image_csv(tmp_path / "none.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\x00")
    with pytest.raises(UserError, match=r"picture\.csv is not a CSV file in UTF-8"):
        read_per_image_csv(tmp_path / "picture.csv")


def test_csv_table_keeps_full_precision():
    rows = list(csv.reader(csv_table([result(method="x", S=0.1 + 0.2, MAE=math.nan)], ["S", "MAE"]).splitlines()))
    assert rows == [["dataset", "method", "images", "S", "MAE"], ["CAMO", "x", "3", "0.30000000000000004", ""]]


def test_json_keeps_full_precision_counts_and_null():
    per_image = {"S": np.array([0.5, math.nan, math.nan]), "MAE": np.zeros(3)}
    one = result(method="x", per_image=per_image, S=np.float64(0.1) + 0.2, Fw=math.nan)
    found = json.loads(results_json([one, result("B", "x", S=1 / 3)], {"gt_path": ["G"]}, {"numpy": "2"}))
    assert found["datasets"] == {"CAMO": {"x": {"S": 0.1 + 0.2, "Fw": None}}, "B": {"x": {"S": 1 / 3}}}
    assert found["files"]["CAMO"]["x"] == {"images": 3, "undefined": {"S": 2}}
    assert found["arguments"] == {"gt_path": ["G"]} and found["versions"] == {"numpy": "2"}


def test_published_figures_are_found_however_a_data_set_is_spelt():
    unet, unext = read_figures("sam2-unet"), read_figures("sam2-unext")
    for name in ("cod10k", "COD 10K", "COD-10K"):
        assert find_figures(unet, name) == unet["COD10K"]
    assert find_figures(unet, "DUTS_TE")["MAE"] == 0.02 and find_figures(unet, "my own") == {}
    assert find_figures(unext, "dis-te1") == unext["DIS-TE1"] != find_figures(unext, "DIS-TE1-4")


def test_an_unknown_paper_names_those_that_are_known():
    with pytest.raises(UserError, match=r"'sam3'.*sam2-unet, sam2-unext"):
        read_figures("sam3")


# What the fact file calls a metric, per task.
OURS = {"S": "S", "E": "E_mean", "MAE": "MAE", "Fw": "Fw", "mIoU": "IoU_mean", "mDice": "Dice_mean"}
OURS |= {"Fmean": "F_mean", "Fmax": "F_max"}
BY_TASK = {"camouflaged": {"F": "F_adaptive"}}
BY_TASK["mirror"] = {"IoU": "mirror_IoU", "F": "mirror_F_max", "MAE": "mirror_MAE"}


@pytest.mark.parametrize("paper, section", [("sam2-unet", "sam2_unet"), ("sam2-unext", "sam2_unext")])
def test_published_figures_are_those_of_the_fact_file(paper, section, shared):
    tasks = yaml.safe_load((shared / "spec/paper-results.yaml").read_text())[section]
    facts = {}
    for task, content in tasks.items():
        names = OURS | BY_TASK.get(task, {})
        for dataset, row in (content.get("expected", {}) if isinstance(content, dict) else {}).items():
            known = {names[k]: v for k, v in row.items() if k in names and v} if isinstance(row, dict) else {}
            if known:
                facts[dataset] = known
    assert dict(read_figures(paper)) == facts
