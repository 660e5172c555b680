"""The check of files at the start of a run: all or a sample, shared by the processes, and not twice."""

import os
import threading

import numpy as np
import pytest

from sam2unet.classes import Classes
from sam2unet.data.checks import check
from sam2unet.data.checks.check import (
    check_pairs,
    check_sources,
    choose_checked,
    measure_image,
    measure_sizes,
    readable_pairs,
    take_sample,
)
from sam2unet.data.checks.check_memory import CheckMemory
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.masks.dataset import MaskFolder
from sam2unet.prompts.framing import Framing
from sam2unet.prompts.lists import find_problems
from sam2unet.training.run_record import find_differences, fingerprint
from tests.conftest import flat, save, write_class_pairs, write_pairs
from tests.threads import run_threads


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder for each test."""
    monkeypatch.setenv("SAM2UNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pairs(tmp_path):
    return match(*write_pairs(tmp_path / "data", count=7))


def settle(pairs, seconds=100):
    """Makes the files old enough to be remembered."""
    for pair in pairs:
        for path in pair:
            time = path.stat().st_mtime - seconds
            os.utime(path, (time, time))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_check_each_file_once_and_get_the_same(world, tmp_path, pairs):
    lock, reads = threading.Lock(), []

    def measure(path):
        with lock:
            reads.append(path)
        return measure_image(path)

    paths = [pair.image for pair in pairs]
    results = run_threads(world, lambda processes: list(check_sources(measure, paths, processes, "test")))
    assert results == [[(60, 50, 0)] * 7] * world and sorted(reads) == paths
    images, masks, file = write_class_pairs(tmp_path / "classes", count=5)
    alone = check_pairs(match(images, masks), Classes.read(file))
    for part in run_threads(world, lambda p: check_pairs(match(images, masks), Classes.read(file), p)):
        assert part.sizes == alone.sizes == {(60, 50)} and np.array_equal(part.counts, alone.counts)


def test_an_error_in_one_process_is_the_error_of_a_single_process_in_all(pairs, tmp_path):
    images, masks, file = write_class_pairs(tmp_path / "classes", count=5)
    save(masks / "b.png", np.full((50, 60), 9, np.uint8))
    cases = [lambda p: check_pairs(match(images, masks), Classes.read(file), p), lambda p: check_pairs(pairs, None, p)]
    for path in (pairs[5].image, pairs[2].image):
        path.write_bytes(b"no image")
    save(pairs[4].mask, np.ones((50, 60), np.uint8))
    for case, words in zip(
        cases, ("1 of 5 masks have values of no class: 9", f"cannot read {pairs[2].image}"), strict=True
    ):
        (alone,) = run_threads(1, case)
        assert words in str(alone)
        assert [(type(error), str(error)) for error in run_threads(3, case)] == [(type(alone), str(alone))] * 3
    kept = run_threads(2, lambda p: readable_pairs(pairs, p))
    assert kept == [[pairs[i] for i in (0, 1, 3, 4, 6)]] * 2


def test_prompts_are_checked_by_all_processes_too(lists):
    save(lists[1].masks[2], np.zeros((50, 90), np.uint8))
    lists[0].image.write_bytes(b"no image")
    pairs = flat(lists)
    alone = find_problems(pairs, Framing(64))
    assert [bool(problem) for problem in alone] == [True] * 3 + [False] * 2 + [True] + [False] * 3
    for part in run_threads(2, lambda p: find_problems(pairs, Framing(64), processes=p)):
        assert part == alone


def test_of_many_pairs_a_sample_is_checked_and_the_others_when_they_are_read(pairs, monkeypatch, capsys):
    monkeypatch.setattr(check, "SAMPLE", 4)
    sample = choose_checked(pairs, "sam2unet check a b")
    line = "check: 4 of 7 pairs now, the others when they are read; sam2unet check a b checks all\n"
    assert capsys.readouterr().out == line and len(sample) == 4 and sample == take_sample(pairs)
    other, coding, shape = (pair for pair in pairs if pair not in sample)
    other.image.write_bytes(b"no image")
    save(coding.mask, np.ones((50, 60), np.uint8))
    save(shape.mask, np.full((60, 60), 255, np.uint8))
    check_pairs(sample)
    folder = MaskFolder(pairs, 64)
    for pair, words in ((other, "cannot read"), (coding, "is not a 0/255 mask"), (shape, r"\(60x50, mask 60x60\)")):
        with pytest.raises(UserError, match=words):
            folder[pairs.index(pair)]
    assert choose_checked(sample, "") is sample and not capsys.readouterr().out


def test_what_was_checked_is_not_decoded_again_unless_it_changes(pairs, cache):
    settle(pairs)
    check_pairs(pairs)
    path = pairs[3].mask
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    check_pairs(pairs)  # path, size and time are those of before
    with pytest.raises(UserError, match="cannot read"):
        check_pairs(pairs, 0)  # another rule for the values
    os.utime(path, (times.st_atime, times.st_mtime + 1))
    with pytest.raises(UserError, match="cannot read"):
        check_pairs(pairs)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for file in cache.iterdir():
        file.write_bytes(b"broken")
    check_pairs(pairs)
    assert sorted(file.stat().st_size > 10 for file in cache.iterdir()) == [False, True, True]  # two kinds are new


def test_a_new_file_is_not_remembered_because_it_may_change_within_a_tick_of_the_clock(pairs, cache):
    check_pairs(pairs)
    assert not cache.exists()


def test_the_memory_has_a_limit_and_needs_no_cache_folder(cache, monkeypatch):
    monkeypatch.setattr("sam2unet.data.checks.check_memory.ROWS", 3)
    memory = CheckMemory("a")
    for number in range(5):
        memory.add(bytes([number]) * 16, (number, 7))
    memory.save()
    assert CheckMemory("a").results == {bytes([number]) * 16: (number, 7) for number in (2, 3, 4)}
    assert not CheckMemory("b").results
    monkeypatch.setenv("SAM2UNET_CACHE", "/dev/null/cache")
    memory = CheckMemory("a")
    memory.add(b"a" * 16, (1,))
    memory.save()


def test_the_fingerprint_is_computed_by_all_processes_and_of_many_pairs_from_a_sample(pairs, lists, monkeypatch):
    for data in (pairs, flat(lists)):
        alone = fingerprint(data)
        assert run_threads(3, lambda p, data=data: fingerprint(data, None, p)) == [alone] * 3
        assert alone["bytes"] == sum(path.stat().st_size for pair in data for path in pair)
    assert len(measure_sizes(flat(lists))) == 3  # each image once
    monkeypatch.setattr(check, "SAMPLE", 4)
    sampled = fingerprint(pairs)
    assert sampled["sample"] == 4 and sampled["bytes"] < fingerprint(pairs[:4] + pairs[4:])["bytes"] + 1
    whole = sampled | {"bytes": 1, "sizes": {}}
    del whole["sample"]
    assert not find_differences(whole, sampled) and not find_differences(sampled, sampled)
    assert find_differences(whole | {"count": 8}, sampled) == ["count"]
    assert find_differences(sampled | {"bytes": 1}, sampled) == ["bytes"]


def test_a_damaged_memory_is_empty(cache):
    memory = CheckMemory("a")
    memory.add(b"a" * 16, (1, 2))
    memory.save()
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert CheckMemory("a").results == {}
    np.savez(path, others=np.zeros(3))
    assert CheckMemory("a").results == {}
