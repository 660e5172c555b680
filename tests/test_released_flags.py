"""Command lines of the released scripts, as their READMEs have them, are taken as they are, and a line says how."""

from argparse import Namespace
from pathlib import Path

import pytest

from sam2unet.errors import UserError
from sam2unet.released_flags import translate_test_flags, translate_train_flags
from tests.conftest import load_script

TRAIN = (
    "--work_dir workdir --run_name sam-med2d --epochs 15 --batch_size 2 --image_size 256 --mask_num 5 "
    "--data_path data_demo --metrics iou dice --device cuda --lr 1e-4 --model_type vit_b "
    "--sam_checkpoint pretrain_model/sam-med2d_b.pth --iter_point 8 --lr_scheduler StepLR --point_list 1 3 5 9 "
    "--multimask True --encoder_adapter True --use_amp True"
)
TEST = (
    "--work_dir workdir --run_name sammed --batch_size 1 --image_size 256 --boxes_prompt True --point_num 1 "
    "--iter_point 1 --data_path data_demo --metrics iou dice --device cuda --model_type vit_b "
    "--sam_checkpoint pretrain_model/sam-med2d_b.pth --multimask True --encoder_adapter True --save_pred True "
    "--use_amp False --lr_scheduler any"
)


def train_flags(line: str) -> Namespace:
    args = load_script("train.py").parser().parse_args(line.split())
    translate_train_flags(args)
    return args


def flags_of_test(line: str) -> Namespace:
    args = load_script("test.py").parser().parse_args(line.split())
    translate_test_flags(args)
    return args


def test_the_released_training_command_means_what_it_meant(capsys):
    args = train_flags(TRAIN)
    assert (args.model, args.encoder, args.lr_scheduler, args.amp) == ("sam_med2d", "vit_b", "step", "fp16")
    assert args.save_path == Path("workdir/models/sam-med2d") and args.size == 256 and args.epoch == 15
    (line,) = capsys.readouterr().out.splitlines()
    for words in (
        "--data_path belongs to --model sam_med2d",
        "--model_type is --encoder vit_b",
        "--lr_scheduler StepLR is step, half after epochs 5 and 10",
        "results go to workdir/models/sam-med2d",
        "--metrics has no meaning, Dice and IoU are always reported",
        "--use_amp is --amp fp16",
    ):
        assert words in line


def test_the_released_test_command_means_what_it_meant(capsys):
    args = flags_of_test(TEST)
    assert args.checkpoint == [Path("pretrain_model/sam-med2d_b.pth")] and args.sam_checkpoint is None
    assert args.save_path == Path("workdir/sammed") and args.amp == "off"
    (line,) = capsys.readouterr().out.splitlines()
    assert "--sam_checkpoint is the model to test" in line and "--model_type vit_b has no meaning" in line


def test_the_shortest_released_commands_work(capsys):
    args = train_flags("--sam_checkpoint X --data_path D")
    assert args.model == "sam_med2d" and args.save_path == Path("workdir/models/sam-med2d")
    assert flags_of_test("--sam_checkpoint X --data_path D").save_path == Path("workdir/sammed")
    assert train_flags("--data_path D --save_path S --lr_scheduler constant").lr_scheduler == "constant"
    capsys.readouterr()
    plain = train_flags("--train_image_path i --train_mask_path m --save_path s --sam_checkpoint X")
    assert plain.model is None and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "translate, line, words",
    [
        (train_flags, "--train_image_path i --train_mask_path m", "--save_path, a folder for results, is missing"),
        (train_flags, "--save_path s --model_type vit_b", "--model_type is --encoder of --model sam_med2d"),
        (train_flags, "--save_path s --data_path D --model_type vit_b --encoder vit_l", "leave --model_type out"),
        (flags_of_test, "--save_path s", "--checkpoint, the model to test, is missing"),
        (flags_of_test, "--checkpoint c --test_image_path i", "--save_path, a folder for results, is missing"),
    ],
)
def test_what_is_missing_or_contradicts_is_one_line(translate, line, words):
    with pytest.raises(UserError, match=words):
        translate(line)


def test_another_schedule_is_refused_for_other_models(train_py):
    ended = train_py("--train_image_path", "i", "--save_path", "s", "--lr_scheduler", "StepLR")
    assert ended.status == 2 and ended.err == ["error: lr_scheduler is StepLR; there are cosine, step, constant"]
