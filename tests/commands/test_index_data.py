"""scripts/index_data.py, and training on an index: the same weights as on the folder or the list of the same files."""

import shutil

import pytest
import torch

from sam2unet.commands import index_data, test, train
from sam2unet.data.index.columns import Index
from sam2unet.data.index.select import IndexQuery, open_index_parts
from sam2unet.data.index.table import Items
from sam2unet.families.table import find_family
from sam2unet.masks.task import MaskTask
from sam2unet.prompts.lists import write_train_list
from sam2unet.prompts.task import PromptTask
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import ALONE
from sam2unet.task import RunData
from tests.med2d import pack_zip, split_zip, write_med2d

SMALL = "--encoder", "micro", "--size", 64, "--epoch", 1, "--batch_size", 4, "--workers", 0, "--device", "cpu"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("med2d")
    path = pack_zip(write_med2d(root, masks=1), root / "a.zip")
    return split_zip(path, root / "s.zip") if shutil.which("zip") else path


@pytest.fixture
def succeed(run_main):
    def call(*words):
        status, out, err = run_main(*words)
        assert status == 0, err
        return out, err

    return call


@pytest.fixture
def index(archive, tmp_path, succeed):
    out, err = succeed(index_data, archive, "--save_path", tmp_path / "index", "--workers", 1)
    assert f"24 images with 24 masks in {tmp_path / 'index'}" in out
    assert "Brain_PTM (its images are masks)" in err
    return tmp_path / "index"


def read_weights(folder, title):
    return torch.load(folder / f"{title}-1.pth", weights_only=True)


def check_equal(first, second):
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_on_an_archive_gives_the_weights_of_the_folder(archive, index, tmp_path, succeed):
    folder = tmp_path / "unpacked"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for item in Items.all(Index.open(index).table):
        for source, target in ((item.image, "images"), (item.masks[0], "masks")):
            if "PTM" not in source.name:
                name = source.name.replace("--0000_000", "")
                (folder / target / name).write_bytes(source.read_bytes())
    rule = "--mask_threshold", 0
    folders = "--train_image_path", folder / "images", "--train_mask_path", folder / "masks"
    succeed(train, *folders, *SMALL, *rule, "--save_path", tmp_path / "a")
    succeed(train, "--index", index, *SMALL, *rule, "--save_path", tmp_path / "b")
    check_equal(read_weights(tmp_path / "a", "SAM2-UNet"), read_weights(tmp_path / "b", "SAM2-UNet"))


def test_prompt_training_on_an_archive_gives_the_weights_of_the_list(index, tmp_path, succeed):
    kept = [item for item in Items.all(Index.open(index).table) if "PTM" not in item.image.name]
    paths = []
    for item in kept:
        image, mask = (tmp_path / "unpacked" / source.name for source in (item.image, item.masks[0]))
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(item.image.read_bytes())
        mask.write_bytes(item.masks[0].read_bytes())
        paths.append(type(item)(image, (mask,)))
    write_train_list(tmp_path, paths)
    flags = "--model", "sam_med2d", *SMALL, "--mask_num", 2, "--iter_point", 2
    succeed(train, "--data_path", tmp_path, *flags, "--save_path", tmp_path / "a")
    succeed(train, "--index", index, *flags, "--save_path", tmp_path / "b")
    check_equal(read_weights(tmp_path / "a", "SAM-Med2D"), read_weights(tmp_path / "b", "SAM-Med2D"))


def test_split_validates_and_a_run_with_another_part_is_not_resumed(index, tmp_path, succeed, run_main):
    flags = "--index", index, *SMALL, "--save_path", tmp_path / "run"
    status, _, message = run_main(train, *flags, "--split", "case:0.6")
    assert status == 2 and "have the values 0 and 1; add --mask_threshold 0" in message
    flags = *flags, "--mask_threshold", 0
    out, _ = succeed(train, *flags, "--split", "case:0.6")
    assert "validation" in out
    status, _, message = run_main(train, *flags, "--split", "case:0.7", "--resume", "auto")
    assert status == 2 and "another data set (" in message and "split was case:0.6, is now case:0.7" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--where", "modality=ct"), "without --index, leave out --where"),
        (("--index", "none"), "not a complete index"),
        (("--index", "none", "--val_fraction", 0.1), "--split divides it"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words, tmp_path, run_main):
    status, _, message = run_main(train, *SMALL, *flags, "--save_path", tmp_path / "run")
    assert status == 2 and words in message
    assert not (tmp_path / "run").exists()


def read_maps(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_maps_of_an_archive_are_those_of_its_files_also_in_shares(checkpoint, index, tmp_path, succeed):
    unpacked = tmp_path / "unpacked/SAMed2Dv1/images"
    unpacked.mkdir(parents=True)
    for item in Items.all(Index.open(index).table):
        if "mr_00" in item.image.name:
            (unpacked / item.image.name).write_bytes(item.image.read_bytes())
    flags = "--checkpoint", checkpoint, "--size", 64, "--exact", "--workers", 1
    succeed(test, *flags, "--test_image_path", tmp_path / "unpacked", "--recursive", "--save_path", tmp_path / "a")
    for share in ("1/2", "2/2"):
        part = "--where", "modality=mr", "--shard", share
        succeed(test, *flags, "--index", index, *part, "--save_path", tmp_path / "b")
    assert len(read_maps(tmp_path / "a")) == 8 and read_maps(tmp_path / "a") == read_maps(tmp_path / "b")


def test_answers_for_the_held_out_cases_are_the_same_in_shares(index, tmp_path, succeed, run_main, monkeypatch):
    training = "--index", index, "--split", "case:0.6"
    flags = "--model", "sam_med2d", *SMALL, "--mask_num", 2, "--iter_point", 2, "--seed", 5
    succeed(train, *training, *flags, "--save_path", tmp_path / "run")
    flags = "--checkpoint", tmp_path / "run/SAM-Med2D-1.pth", *training, "--device", "cpu"
    _, message = succeed(test, *flags, "--save_path", tmp_path / "whole")
    assert "seen in training" not in message
    for share in ("2/2", "1/2"):
        succeed(test, *flags, "--shard", share, "--save_path", tmp_path / "shares")
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "shares")]
    assert files[0] == files[1] and {"per_mask.csv", "results.json"} < files[0].keys()
    held_out = open_index_parts(IndexQuery(index, split="case:0.6"), seed=5).held_out
    rows = (tmp_path / "whole/per_mask.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1].rpartition("/")[2] for row in rows} == {mask.name for _, mask in held_out.pairs}
    status, _, message = run_main(test, *flags, "--data_path", tmp_path, "--save_path", tmp_path / "other")
    assert status == 2 and "--index takes the place" in message
    succeed(test, *flags, "--seed", 6, "--save_path", tmp_path / "clicks")  # a seed for clicks holds out no other cases
    names = [
        [line.split(",")[:2] for line in (tmp_path / name / "per_mask.csv").read_text().splitlines()]
        for name in ("whole", "clicks")
    ]
    assert names[0] == names[1]
    for split, is_seen in ((["--split", "case:0.5"], True), (["--split", "case:0.7"], False), ([], True)):
        wrong = "--checkpoint", tmp_path / "run/SAM-Med2D-1.pth", "--index", index, *split, "--shard", "0/1"
        _, _, message = run_main(test, *wrong, "--save_path", tmp_path / "other")
        assert ("with --split case:0.6. With" in message and "seen in training" in message) == is_seen
    numbers = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (numbers | {"TORCHELASTIC_RUN_ID": "x"}).items():
        monkeypatch.setenv(name, value)
    _, _, message = run_main(test, *wrong, "--save_path", tmp_path / "other")  # only the first process says it
    assert "0/1" in message and "seen in training" not in message


def test_balance_draws_every_data_set_equally_often(tmp_path, index):
    query = IndexQuery(index, where="dataset!=Brain_PTM and case!=BraTS/Case_000|BraTS/Case_001", balance="dataset")
    for model, task_type in (("sam2unet", MaskTask), ("sam_med2d", PromptTask)):
        recipe = Recipe.read(model=model, mask_threshold=0, batch_size=3)
        task = task_type(find_family(model), recipe, RunData(index=query))
        draws = [draw.index for batch in task.batches(ALONE) for draw in batch]
        names = [task.pairs[i].image.name.split("--")[1] for i in draws]
        assert len(draws) == 12 and names.count("AMOS") == names.count("BraTS") == 6
        assert len({i for i in draws if "BraTS" in task.pairs[i].image.name}) == 4  # each once before one comes again
