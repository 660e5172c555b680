"""The command `benchmarks gpu`: what it checks, what it keeps, and what it writes into the docs."""

import re
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from benchmarks import checks, gpu, predict, train
from benchmarks.__main__ import parser, run
from benchmarks.harness import Alone, prepare_process
from sam2unet.errors import SomeFailed, UserError
from tests.conftest import ROOT, load_script


def read_rows(folder) -> dict[tuple[str, str], dict]:
    return {(result["table"], result["row"]): result for result in gpu.read_results(folder)}


def test_a_quick_run_has_results_in_both_files(tmp_path, capsys):
    folder = tmp_path / "gpu"
    run(
        parser().parse_args(
            ["gpu", "--save_path", str(folder), "--device", "cpu", "--quick", "--only", "train", "eval"]
        )
    )
    rows = read_rows(folder)
    assert rows["training of SAM2-UNet micro at 64x64, batch 2", "ours"]["rate"] > 0
    assert rows["evaluation", "numpy 1"]["cells"]["pairs/s"]
    text = (folder / "results.md").read_text()
    assert "## training of SAM2-UNet micro at 64x64, batch 2\n\n| row | ok | images/s | ratio |" in text
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["train", "eval"]
    with pytest.raises(UserError, match="^there are no results of a GPU"):
        run(parser().parse_args(["gpu", "--save_path", str(folder), "--write_docs"]))


@pytest.mark.slow
def test_a_whole_quick_run_has_results_of_each_step(tmp_path):
    run(parser().parse_args(["gpu", "--save_path", str(tmp_path / "gpu"), "--device", "cpu", "--quick"]))
    found = gpu.read_results(tmp_path / "gpu")
    assert {result["step"] for result in found} == {"machine", *gpu.STEPS}
    assert not [result for result in found if result["ok"] is False]


def test_a_training_step_is_compared_with_the_cpu_and_with_ddp(tmp_path):
    data, record = checks.make_data(tmp_path / "data", 2, (60, 80)), partial(gpu.add_result, tmp_path, "models")
    Alone().run(checks.compare_passes, "sam_med2d", "vit_b", None, 256, record, data, "cpu", True)
    rows, table = read_rows(tmp_path), "one training step of sam_med2d micro 64"
    for row in ("fp32, device and CPU", "DDP and one process"):
        assert rows[table, row]["ok"]
        assert max(rows[table, row][name] for name in ("logits", "loss", "gradient")) < 1e-5


def fail(record, data, device, quick):
    raise ValueError("no\nuse")


def sleep(record, data, device, quick):
    time.sleep(100)


def record_failure(record, data, device, quick):
    record("a table", "a row", {"ok": False}, {})


def record_success(record, data, device, quick):
    record("t", "r", {}, {})


@pytest.mark.parametrize(
    "job, reason",
    [
        (sleep, "not measured: the time of its step was over"),
        (fail, "failed: use"),
        ("train --no_such_flag", "failed: SystemExit: 2"),
        (record_failure, ""),
    ],
)
def test_a_step_that_fails_is_a_result_and_the_next_step_runs(job, reason, tmp_path, monkeypatch):
    steps = {"bad": gpu.Step(1 if job is sleep else 60, [job], True), "good": gpu.Step(60, [record_success])}
    monkeypatch.setattr(gpu, "STEPS", steps)
    args = parser().parse_args(["gpu", "--save_path", str(tmp_path / "gpu"), "--quick", "--device", "cpu"])
    args.alone.run(divmod, 1, 1)  # what all processes import takes time
    if reason.startswith("not"):
        run(args)
    else:
        with pytest.raises(SomeFailed, match="^1 results failed"):
            run(args)
    bad, good = gpu.read_results(tmp_path / "gpu")[-2:]
    assert bad["cells"].get("result", "") == reason and bad["ok"] is (None if reason.startswith("not") else False)
    assert good["row"] == "r" and good["ok"]


def test_a_folder_of_the_user_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that this script did not make"):
        run(parser().parse_args(["gpu", "--save_path", str(tmp_path)]))


def test_a_result_that_was_not_written_completely_is_left_out(tmp_path):
    gpu.add_result(tmp_path, "step", "table", "row", {"rate": 1.0}, {"images/s": "1"})
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"step": "st')
    gpu.add_result(tmp_path, "step", "table", "next", "not measured: out of memory", {})
    (first, last) = gpu.read_results(tmp_path)
    assert first["rate"] == 1.0 and last["row"] == "next" and last["ok"] is None
    assert "| next | | | not measured: out of memory |" in (tmp_path / "results.md").read_text()


def test_results_are_written_into_the_marked_tables_of_the_docs(tmp_path):
    machine = {"machine": "NVIDIA H200; torch 2.11.0; 2026-12-01", "type": "cuda", "quick": False}
    gpu.add_result(tmp_path, "machine", "machine", "", machine, {})
    table, cells = "training of SAM2-UNet large at 352x352, batch 12", {"images/s": "60.1", "ratio": "1.00"}
    gpu.add_result(tmp_path, "train", table, "released", {}, cells)
    gpu.add_result(tmp_path, "train", table, "ours", "not measured: out of memory", {})
    page = tmp_path / "page.md"
    text = (ROOT / "docs/benchmarks.md").read_text()
    page.write_text(text)
    assert gpu.write_docs(gpu.read_results(tmp_path), page) == 1
    changed = [line for line in page.read_text().splitlines() if line not in text.splitlines()]
    assert [line.split(" | ")[0] for line in changed] == ["| NVIDIA H200; torch 2.11.0; 2026-12-01", "| released"]
    assert changed[1].startswith("| released | 60.1 | 1.00 | ") and len(text.splitlines()) == len(
        page.read_text().splitlines()
    )


def test_the_tables_of_the_docs_have_the_names_and_the_columns_of_the_results():
    text = (ROOT / "docs/benchmarks.md").read_text()
    tables = [name for name, _ in gpu.MARKED_TABLE.findall(text)]
    assert len(tables) == len(set(tables)) == 12
    columns = {*train.COLUMNS, *predict.COLUMNS, *(name.removeprefix("SAM-Med2D: ") for name in tables)}
    titles = [block.splitlines()[1].strip("| ").split(" | ")[1:] for block in re.split("<!-- gpu: .+ -->\n", text)[1:]]
    assert {title for line in titles for title in line} <= columns
    for step in gpu.STEPS:
        assert f"| `{step}` |" in text
    assert sum(step.seconds for step in gpu.STEPS.values() if not step.together) + 130 <= 530


def test_every_option_of_test_py_has_a_command():
    options = {word for line in checks.TEST_LINES for word in line.split() if word.startswith("--")}
    for action in load_script("test.py").parser()._actions:
        assert options & {"--device", *action.option_strings} or action.dest in ("help", "device"), action.dest


def test_bf16_stays_within_the_tolerance_of_bf16_but_not_of_fp32(tmp_path):
    prepare_process(None)
    data = checks.make_data(tmp_path, 2, (60, 80))
    step = checks.prepare_step("sam2unet", "micro", None, 64, data)
    base, half = (step(torch.device("cpu"), amp=amp) for amp in ("off", "bf16"))
    records = []
    for kind in ("fp32", "bf16"):
        checks.compare_pass(lambda *result: records.append(result), "table", kind, half, base, kind)
    assert [numbers["ok"] for _, _, numbers, _ in records] == [False, True]


def test_the_package_needs_few_others():
    """`gpu` runs where only torch, torchvision, timm (with what it needs), numpy, OpenCV and Pillow are installed."""
    absent = ["py_sod_metrics", "imageio", "matplotlib", "numba", "skimage", "sklearn", "gradio", "av", "onnx"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.__main__, runpy; "
    code += "[runpy.run_path(name) for name in ('train.py', 'test.py')]"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
