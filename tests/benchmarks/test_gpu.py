"""The command `benchmarks gpu`: what it checks, what it keeps, and what it writes into the docs."""

import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as main
from benchmarks import checks, gpu, models
from benchmarks.__main__ import Command, parser, run
from benchmarks.harness import COLUMNS, Alone, Results, run_command
from sam2unet.errors import SomeFailed, UserError
from tests.conftest import ROOT, load_script


def run_gpu(folder, *words) -> list[dict]:
    """Runs the command quickly on the CPU. Returns its results."""
    run(parser().parse_args(["gpu", "--save_path", str(folder), "--device", "cpu", "--quick", *words]))
    return Results(folder, "gpu").read()


def test_a_quick_run_has_results_in_both_files(tmp_path, capsys):
    folder = tmp_path / "gpu"
    rows = {(r["table"], r["row"]): r for r in run_gpu(folder, "--only", "eval")}
    assert rows["evaluation", "numpy 1"]["rate"] > 0
    assert "## evaluation\n\n| row | pairs/s | ratio |" in (folder / "results.md").read_text()
    assert "eval: until second " in capsys.readouterr().out
    with pytest.raises(UserError, match="^there are no results of a GPU"):
        run(parser().parse_args(["gpu", "--save_path", str(folder), "--write_docs"]))


@pytest.mark.slow
def test_a_whole_quick_run_has_results_of_each_step(tmp_path):
    found = run_gpu(tmp_path / "gpu")
    assert {result["step"] for result in found} == {"gpu", *gpu.STEPS} - {"compile"}
    assert not [result for result in found if result["ok"] is False]


def test_the_steps_have_commands_that_exist():
    folders = dict.fromkeys(("images", "masks", "maps", "lists", "results"), Path("x"))
    for name in gpu.STEPS:
        for line in gpu.list_lines(name, folders):
            args = parser().parse_args(line.split())
            for row in args.rows if hasattr(args, "model") else ():
                assert set(row.split("+")[1:]) <= set(args.options), line


def test_a_training_step_is_compared_with_the_cpu_and_with_ddp(tmp_path):
    data, results = checks.make_data(tmp_path / "data", 2, (60, 80)), Results(tmp_path, "models")
    words = ["passes", "--model", "sam_med2d", "--data_path", str(data["lists"]), "--size", "64", "--encoder", "micro"]
    run_command(parser().parse_args([*words, "--device", "cpu"]), Alone(), results)
    rows = {result["row"]: result for result in results.read()}
    for row in ("fp32, device and CPU", "DDP and one process"):
        assert rows[row]["ok"] and rows[row]["table"] == "one training step of sam_med2d micro 64"
        assert max(rows[row][name] for name in ("logits", "loss", "gradient")) < 1e-5


def fail(args):
    """Fails."""
    raise ValueError("no\nuse")


def sleep(args):
    """Sleeps."""
    time.sleep(100)


def add_failure(args):
    """Adds a failure."""
    args.results.add("check", "a table", "a row", {"ok": False, "result": "no"})


def add_success(args):
    """Adds a result."""
    args.results.add("check", "t", "r", {"result": "yes"})


@pytest.mark.parametrize(
    "line, work, reason",
    [
        ("options", sleep, "not measured: the time of its step was over"),
        ("options", fail, "failed: use"),
        ("train --no_such_flag", fail, "failed: SystemExit: 2"),
        ("options", add_failure, "no"),
    ],
)
def test_a_step_that_fails_is_a_result_and_the_next_step_runs(line, work, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", {"bad": (2 if work is sleep else 60, line), "good": (60, "resume")})
    command = Command(work, "device", whole=True)
    good = Command(add_success, "device")
    monkeypatch.setattr(main, "COMMANDS", main.COMMANDS | {"options": command, "resume": good})
    args = parser().parse_args(["gpu", "--save_path", str(tmp_path / "gpu"), "--quick", "--device", "cpu"])
    args.only = ["bad", "good"]
    Alone().run(divmod, 1, 1)  # what all processes import takes time
    with nullcontext() if work is sleep else pytest.raises(SomeFailed, match="^1 results failed"):
        run(args)
    *_, bad, good = Results(tmp_path / "gpu", "").read()
    assert bad.get("result") == reason and bad["ok"] is (None if work is sleep else False)
    assert good["row"] == "r" and good["ok"]


def test_a_folder_of_the_user_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that this script did not make"):
        run(parser().parse_args(["gpu", "--save_path", str(tmp_path)]))


def test_a_result_that_was_not_written_completely_is_left_out(tmp_path):
    results = Results(tmp_path, "step")
    results.add("encoder", "table", "row", {"ms": 1.0, "rate": 1000.0})
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('\n{"step": "st')
    results.add("encoder", "table", "next", {"result": "not measured: out of memory", "ok": None})
    (first, last) = results.read()
    assert first["rate"] == 1000.0 and last["row"] == "next" and last["ok"] is None
    assert "| next | not measured: out of memory | |" in (tmp_path / "results.md").read_text()


def test_results_are_written_into_the_marked_tables_of_the_docs(tmp_path):
    machine = {"result": "NVIDIA H200; torch 2.11.0; 2026-12-01", "type": "cuda", "quick": False}
    Results(tmp_path, "gpu").add("check", "machine", "machine", machine)
    results, table = Results(tmp_path, "sam_med2d"), "SAM-Med2D: encoder, ms"
    results.add("encoder", table, "released", {"ms": 60.1, "rate": 16.6})
    results.add("encoder", table, "ours", {"result": "not measured: out of memory", "ok": None})
    page = tmp_path / "page.md"
    text = (ROOT / "docs/benchmarks.md").read_text()
    page.write_text(text)
    assert gpu.write_docs(results.read(), page) == 1
    changed = [line for line in page.read_text().splitlines() if line not in text.splitlines()]
    assert [line.split(" | ")[0] for line in changed] == ["| NVIDIA H200; torch 2.11.0; 2026-12-01", "| released"]
    assert changed[1] == "| released | 60.1 | 1.00 |"
    assert len(text.splitlines()) == len(page.read_text().splitlines())


def test_the_tables_of_the_docs_have_the_names_and_the_columns_of_the_results():
    text = (ROOT / "docs/benchmarks.md").read_text()
    tables = [name for name, _ in gpu.MARKED_TABLE.findall(text)]
    assert len(tables) == len(set(tables)) == 12
    columns = {title for columns in COLUMNS.values() for title in columns}
    titles = [block.splitlines()[1].strip("| ").split(" | ")[1:] for block in re.split("<!-- gpu: .+ -->\n", text)[1:]]
    assert {title for line in titles for title in line} <= columns
    for step in gpu.STEPS:
        assert f"| `{step}` |" in text
    assert sum(seconds for name, (seconds, _) in gpu.STEPS.items() if name not in gpu.TOGETHER) + 130 <= 530


def test_every_option_of_test_py_has_a_command():
    options = {word for line in checks.TEST_LINES for word in line.split() if word.startswith("--")}
    for action in load_script("test.py").parser()._actions:
        assert options & {"--device", *action.option_strings} or action.dest in ("help", "device"), action.dest


def test_bf16_stays_within_the_tolerance_of_bf16_but_not_of_fp32(tmp_path):
    data = checks.make_data(tmp_path, 2, (60, 80))
    words = ["--train_image_path", str(data["images"]), "--train_mask_path", str(data["masks"]), "--encoder", "micro"]
    args, cpu = parser().parse_args(["passes", *words, "--size", "64"]), torch.device("cpu")
    model = models.build_model(args).train()
    base, half = (checks.run_pass(args, model, cpu, amp=amp) for amp in ("off", "bf16"))
    assert [checks.compare_pass(half, base, precision)["ok"] for precision in ("fp32", "bf16")] == [False, True]


def test_the_package_needs_few_others():
    """`gpu` runs where only torch, torchvision, timm (with what it needs), numpy, OpenCV and Pillow are installed."""
    absent = ["py_sod_metrics", "imageio", "matplotlib", "numba", "skimage", "sklearn", "gradio", "av", "onnx"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.__main__, runpy; "
    code += "[runpy.run_path(name) for name in ('train.py', 'test.py')]"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
