"""Scores of several classes against scikit-learn, torchmetrics, and sums by hand."""

import numpy as np
import pytest
import torch

from sam2unet.classes import IGNORED
from sam2unet.errors import UserError
from sam2unet.scoring.classes.columns import define_class_columns
from sam2unet.scoring.classes.confusion import count_confusion, count_pixels, score_classes

EXACT = dict(rel=1e-12, abs=1e-12, nan_ok=True)


def random_pair(rng, present, shape=(40, 30), ignored=0.1, right=0.6):
    """A mask of the classes `present`, and a map that is right in a part of the pixels."""
    mask = rng.choice(present, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < right, mask, rng.choice(present, shape)).astype(np.uint8)
    mask[rng.random(shape) < ignored] = IGNORED
    return prediction, mask


def make_case(name):
    """Maps, masks and the number of classes."""
    rng = np.random.default_rng(0)
    if name == "200 classes":
        return [random_pair(rng, np.arange(200), (90, 80)) for _ in range(4)], 200
    if name == "ignored everywhere":
        prediction, _ = random_pair(rng, [0, 1, 2])
        return [(prediction, np.full_like(prediction, IGNORED))], 3
    if name == "only one class":
        return [(np.ones((5, 7), np.uint8), np.ones((5, 7), np.uint8))], 3
    pairs = [random_pair(rng, [0, 1, 3]) for _ in range(5)]  # class 2 is absent from both
    if name == "absent from the map":
        pairs[0][1][:9, :9] = 2
    elif name == "absent from the mask":
        pairs[0][0][:9, :9] = 2
    elif name == "absent from some images":
        pairs[1][0][pairs[1][0] == 3], pairs[1][1][pairs[1][1] == 3] = 0, 1
    return pairs, 4


CASES = (
    "absent from both",
    "absent from the map",
    "absent from the mask",
    "absent from some images",
    "ignored everywhere",
    "only one class",
    "200 classes",
)


def score_pairs(pairs, count):
    confusions = np.stack([count_confusion(*pair, count) for pair in pairs])
    return confusions.sum(0), score_classes(count_pixels(confusions), [str(index) for index in range(count)])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", CASES)
def test_the_confusion_matrix_and_the_recalls_are_those_of_scikit_learn(name):
    metrics = pytest.importorskip("sklearn.metrics")
    pairs, count = make_case(name)
    confusion, scores = score_pairs(pairs, count)
    prediction, mask = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    prediction, mask = prediction[mask != IGNORED], mask[mask != IGNORED]
    if not mask.size:
        assert not confusion.any() and np.isnan(scores["accuracy"]) and np.isnan(scores["mean_accuracy"])
        return
    assert (confusion == metrics.confusion_matrix(mask, prediction, labels=range(count))).all()
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(mask, prediction), **EXACT)
    assert scores["mean_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(mask, prediction), **EXACT)
    weighted = metrics.jaccard_score(mask, prediction, average="weighted", zero_division=0)
    assert scores["fw_IoU"] == pytest.approx(weighted, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_iou_is_that_of_torchmetrics(name, monkeypatch):
    classification = pytest.importorskip("torchmetrics.classification")
    pairs, count = make_case(name)
    _, scores = score_pairs(pairs, count)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # torchmetrics divides in float32: exact to 1e-7
    options = dict(ignore_index=IGNORED, zero_division=float("nan"))
    each, mean = (classification.MulticlassJaccardIndex(count, average, **options) for average in ("none", "macro"))
    for prediction, mask in pairs:
        for metric in (each, mean):
            metric.update(torch.from_numpy(prediction), torch.from_numpy(mask).long())
    theirs = each.compute()
    assert theirs.dtype == torch.float64
    assert [scores[f"IoU_{index}"] for index in range(count)] == pytest.approx(theirs.tolist(), **EXACT)
    assert scores["mIoU"] == pytest.approx(np.nanmean(theirs) if theirs.isfinite().any() else np.nan, **EXACT)
    if theirs.isfinite().all():  # its mean with NaN for absent classes is NaN
        assert scores["mIoU"] == pytest.approx(mean.compute().item(), **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_dice_and_the_means_are_sums_by_hand(name):
    pairs, count = make_case(name)
    _, scores = score_pairs(pairs, count)

    def overlap(index, pairs):
        """Dice and IoU of a class over the pixels of `pairs`; None for a class that is nowhere."""
        both = sum(int(((p == index) & (m == index)).sum()) for p, m in pairs)
        size = sum(int(((p == index) & (m != IGNORED)).sum()) + int((m == index).sum()) for p, m in pairs)
        return (2 * both / size, both / (size - both)) if size else None

    def mean(values):
        values = [value for value in values if value is not None]
        return sum(values) / len(values) if values else np.nan

    for place, key in enumerate(("Dice", "IoU")):
        whole = [overlap(index, pairs) for index in range(count)]
        whole = [value and value[place] for value in whole]
        images = [[overlap(index, [pair]) for pair in pairs] for index in range(count)]
        images = [mean(value and value[place] for value in row) for row in images]
        nan = [np.nan if value is None else value for value in whole]
        assert [scores[f"{key}_{index}"] for index in range(count)] == pytest.approx(nan, **EXACT)
        assert [scores[f"{key}_{index}_image"] for index in range(count)] == pytest.approx(images, **EXACT)
        assert scores[f"m{key}_fg"] == pytest.approx(mean(whole[1:]), **EXACT)
        if key == "Dice":
            foreground = mean(None if np.isnan(value) else value for value in images[1:])
            assert scores["mDice_image_fg"] == pytest.approx(foreground, **EXACT)
        else:
            assert scores["mIoU"] == pytest.approx(mean(whole), **EXACT)


def test_counts_above_the_integers_of_float32_are_exact():
    mask = np.zeros((4099, 4099), np.uint8)  # more than 2 ** 24 pixels
    assert count_confusion(mask, mask, 2).tolist() == [[4099**2, 0], [0, 0]]


def test_weights_count_images_several_times():
    pairs, count = make_case("absent from some images")
    counts = np.stack([count_pixels(count_confusion(*pair, count)) for pair in pairs])
    names, times = list("abcd"), np.array([2, 0, 1, 3, 0])
    weighted = score_classes(counts, names, times[None].astype(float))
    repeated = score_classes(np.repeat(counts, times, axis=0), names)
    assert {key: value[0] for key, value in weighted.items()} == pytest.approx(repeated, **EXACT)


def test_a_map_with_an_index_of_no_class_is_refused():
    mask = np.zeros((4, 4), np.uint8)
    for index, text in ((3, "class index 3"), (IGNORED, "no class")):
        with pytest.raises(UserError, match=f"maps/a.png has a pixel of {text}; .* 0 to 2"):
            count_confusion(np.full_like(mask, index), mask, 3, "maps/a.png")


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(UserError, match="the classes road and road_image"):
        score_classes(np.ones((1, 3, 3), np.int64), ["sky", "road", "road_image"])
    names = ["sky", "road", "surface_road"]  # HD95 of the one, and HD95_surface of the other
    assert "HD_surface_road" not in define_class_columns(names)
    with pytest.raises(UserError, match="the classes road and surface_road"):
        define_class_columns(names, surfaces=True)
