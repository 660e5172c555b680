"""The commands. Each module has `parser()` and `run(args)`. It imports torch only in `run`, so `--help` is fast."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command: its module in this folder, the script that does the same, and what it does."""

    module: str
    script: str
    words: str


COMMANDS = {
    "train": Command("train", "train.py", "train a model on images and masks, or on lists of prompts"),
    "test": Command("test", "test.py", "predict maps of images, or score answers to prompts"),
    "eval": Command("eval", "eval.py", "score folders of maps against folders of masks"),
    "demo": Command("demo", "scripts/demo.py", "open a page in the browser to try a checkpoint"),
    "export": Command("export", "scripts/export.py", "export a model as ONNX or torch.export"),
    "check": Command("check_data", "scripts/check_data.py", "check a data set before training"),
    "index": Command("index_data", "scripts/index_data.py", "make an index of millions of images"),
    "predict-ray": Command("predict_ray", "scripts/predict_ray.py", "predict maps of millions of images with Ray"),
    "convert": Command(
        "convert_annotations", "scripts/convert_annotations.py", "convert between masks and formats of other tools"
    ),
    "convert-checkpoint": Command(
        "convert_checkpoint", "scripts/convert_checkpoint.py", "convert a checkpoint, or make a folder for the hub"
    ),
    "prepare": Command("prepare_benchmarks", "scripts/prepare_benchmarks.py", "make data folders from downloads"),
    "make-prompts": Command("make_prompt_data", "scripts/make_prompt_data.py", "make the lists for SAM-Med2D"),
    "make-samples": Command("make_sample_data", "scripts/make_sample_data.py", "make a small data set"),
    "reproduce": Command("reproduce", "scripts/reproduce.py", "reproduce a published result"),
    "cross-validate": Command("cross_validate", "scripts/cross_validate.py", "train and score each fold of a data set"),
    "calibrate": Command("calibrate", "scripts/calibrate.py", "fit the temperature of a checkpoint"),
    "quickstart": Command("quickstart", "scripts/quickstart.py", "train on your images in a given time"),
    "weights": Command("weights", "scripts/weights.py", "list, download and check published weights"),
    "doctor": Command("doctor", "", "show versions, device and optional parts, and test the installation"),
    "version": Command("version", "", "print the version"),
}
