"""`--data DIR` of train.py and test.py: a folder with usual names instead of two folders."""

import json

import pytest

from sam2unet.released_flags import translate_train_flags
from sam2unet.weights.formats import save_state
from tests.conftest import load_script, tiny_sam_med2d, write_class_pairs, write_pairs


@pytest.fixture
def mirrors(tmp_path):
    """A folder as MSD is downloaded: train and test with image and mask."""
    for split, count in (("train", 4), ("test", 3)):
        write_pairs(tmp_path / "MSD" / split, count)
        (tmp_path / f"MSD/{split}/images").rename(tmp_path / f"MSD/{split}/image")
        (tmp_path / f"MSD/{split}/masks").rename(tmp_path / f"MSD/{split}/mask")
    return tmp_path / "MSD"


def test_training_takes_the_training_folders_and_says_so(mirrors, train_py, tmp_path):
    words = ("--encoder", "micro", "--size", 32, "--epoch", 1, "--batch_size", 4, "--workers", 0)
    ended = train_py(*words, "--data", mirrors, "--save_path", tmp_path / "run")
    assert ended.status == 0, ended.err
    folder = mirrors / "train"
    assert f"note: --data {mirrors}: images in {folder / 'image'}, masks in {folder / 'mask'}" in ended.out
    assert json.loads((tmp_path / "run/run.json").read_text())["data"]["count"] == 4


def test_prediction_takes_the_test_folders(mirrors, checkpoint, test_py, tmp_path):
    ended = test_py("--checkpoint", checkpoint, "--data", mirrors, "--save_path", tmp_path / "maps", "--size", 64)
    assert ended.status == 0, ended.err
    assert f"images in {mirrors / 'test/image'}, masks in {mirrors / 'test/mask'}" in ended.out
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.png")) == ["a.png", "b.png", "c.png"]


def test_masks_of_classes_are_found_in_the_same_way(train_py, tmp_path):
    _, _, classes = write_class_pairs(tmp_path / "streets")
    words = ("--encoder", "micro", "--size", 32, "--epoch", 1, "--batch_size", 4, "--workers", 0)
    ended = train_py(*words, "--data", tmp_path / "streets", "--classes", classes, "--save_path", tmp_path / "run")
    assert ended.status == 0, ended.err


def test_two_readings_are_listed_and_stop_the_script(mirrors, train_py, test_py, checkpoint, tmp_path):
    write_pairs(mirrors, 2)
    for script, words, split in ((train_py, (), "train"), (test_py, ("--checkpoint", checkpoint), "test")):
        ended = script(*words, "--data", mirrors, "--save_path", tmp_path / "out")
        assert ended.is_refusal(f"error: --data {mirrors} has several folders for {split}: ")
        assert "images with masks; test/image with test/mask; train/image with train/mask; give" in ended.err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ("--data MSD --train_image_path MSD/train/image", "--data finds the folders of --train_image_path; give one"),
        ("--data MSD --data_path lists", "--data finds the folders of --data_path; give one"),
        ("--data MSD/train/image", "no image folder beside a mask folder in MSD/train/image; images are in images, "),
        ("--data MSD/train/image/a.jpg", "MSD/train/image/a.jpg is a file; wanted a folder of images"),
        ("--data nothing", "no such folder: nothing"),
        ("--data MSD --model sam_med2d", "no such file: MSD/image2label_train.json; sam2unet make-prompts makes"),
    ],
)
def test_what_cannot_work_is_one_line(words, message, mirrors, train_py, monkeypatch):
    monkeypatch.chdir(mirrors.parent)
    assert train_py(*words.split(), "--save_path", "out").is_refusal(message)


def test_a_test_of_sam_med2d_looks_for_its_list_in_the_folder(mirrors, test_py, tmp_path):
    save_state(tiny_sam_med2d().state_dict(), tmp_path / "sam-med2d_b.pth")
    ended = test_py("--checkpoint", tmp_path / "sam-med2d_b.pth", "--data", mirrors, "--save_path", tmp_path / "out")
    assert ended.is_refusal(f"no such file: {mirrors / 'label2image_test.json'}; sam2unet make-prompts makes")


def test_a_folder_with_the_lists_of_sam_med2d_chooses_this_model(shared):
    folder = shared / "data/sammed2d_demo/data_demo"
    parser = load_script("train.py").parser()
    args = parser.parse_args(["--data", str(folder), "--save_path", "run"])
    translate_train_flags(args)
    assert (args.model, args.data_path, args.train_image_path) == ("sam_med2d", folder, [])
