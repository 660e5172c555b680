"""Scripts that train as train.py does, and write down the samples of each batch."""

from collections import defaultdict
from pathlib import Path

from tests.forked import ROOT

SCRIPT = """
import os, runpy, sys, time
sys.path.insert(0, {root!r})
import torch
from sam2unet.training.loop import Loop
torch.set_default_dtype(torch.float64)  # as in test_processes.py
compute_shares = Loop.compute_shares
def record(self, group):
    images, shares = compute_shares(self, group)
    counted = [batch.indices.tolist() for batch, share in zip(group, shares) if share]
    names = [self.images[index].name for indices in counted for index in indices]
    with open({folder!r} + "/" + str(os.getpid()), "a") as file:
        print(self.progress.epoch, self.progress.seen, *names, file=file)
    if os.path.exists({folder!r} + "/../slow"):
        time.sleep({pause})
    return images, shares
Loop.compute_shares = record
runpy.run_path({root!r} + "/train.py", run_name="__main__")
"""


class Recording:
    """A script in `folder`, and what its processes write down there. It pauses after each batch while `slow` exists."""

    def __init__(self, folder: Path, pause: float):
        self.records, self.script, self.slow = (folder / name for name in ("records", "record.py", "slow"))
        self.records.mkdir()
        self.slow.touch()
        self.script.write_text(SCRIPT.format(root=str(ROOT), folder=str(self.records), pause=pause))

    def read(self) -> dict[tuple[int, int], set[str]]:
        """(epoch, position of the first image) -> the images of the batch, of all processes and of all attempts."""
        batches = defaultdict(set)
        for path in self.records.iterdir():
            for line in path.read_text().splitlines():
                epoch, seen, *names = line.split()
                batches[int(epoch), int(seen)] |= set(names)
        return batches

    def has_each_once(self, epoch: int, names: list[str]) -> bool:
        """Whether the batches of an epoch have no common image, and together all images."""
        batches = [images for (number, _), images in self.read().items() if number == epoch]
        return sorted(name for batch in batches for name in batch) == sorted(names)
