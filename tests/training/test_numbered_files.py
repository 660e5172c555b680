"""`--keep N`: a run removes its oldest numbered files, and no others."""

import os
import signal

from tests.conftest import write_pairs
from tests.training.waiting import wait_for

SMALL = "--encoder micro --size 32 --batch_size 2 --epoch 11 --val_every 3 --workers 0 --device cpu".split()


def test_a_run_that_resumes_keeps_its_newest_files_and_all_files_of_the_user(start, tmp_path):
    images, masks = write_pairs(tmp_path, count=2)
    run, flags = tmp_path / "run", ["--train_image_path", images, "--train_mask_path", masks, *SMALL]
    flags += ["--val_image_path", images, "--val_mask_path", masks, "--save_path", run, "--resume", "auto"]
    process = start("train.py", *flags)
    wait_for(process, (run / "validation/epoch-006.png").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.finish()
    assert [path.name for path in run.glob("SAM2-UNet-*")] == ["SAM2-UNet-5.pth"]

    mine = {run / "SAM2-UNet-7.pth", run / "validation/epoch-003.png"}
    for path in mine:  # a new file, and one in the place of a file of the run
        path.write_bytes(b"mine")
    ended = start("train.py", *flags, "--keep", 2).finish()
    assert ended.returncode == 0, ended.stderr
    kept = {run / "SAM2-UNet-10.pth", run / "SAM2-UNet-11.pth"}
    kept |= {run / f"validation/epoch-{epoch:03}.png" for epoch in (9, 11)}
    assert {*run.glob("SAM2-UNet-*"), *run.glob("validation/*")} == mine | kept
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert (run / "best.pth").exists() and (run / "last.pt").exists()


def test_nothing_is_kept_by_no_number(train_py, tmp_path):
    images, masks = write_pairs(tmp_path, count=2)
    flags = ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run"]
    assert train_py(*flags, "--keep", 0).is_refusal("keep is 0; it must be from 1 to")
