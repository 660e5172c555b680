"""Made-up results for the tests of the report: rectangles, and noisy maps of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from sam2unet.scoring.aggregate import MethodResult
from tests.conftest import save

HOSTILE = "</script><b>\"'é&amp;<!--"
COLUMNS = ("IoU_05", "MAE")
COUNT = 40  # more than the gallery draws at once
FOUR = [("A", "good"), ("A", "bad"), ("B", "good"), ("B", "bad")]  # of the fixture `sets`


def flags(sets, *pairs):
    """The flags of eval.py for pairs of a data set and a method of the fixture `sets`."""
    predictions = [sets / dataset / method for dataset, method in pairs]
    masks = [sets / dataset / "masks" for dataset, _ in pairs]
    words = ["--dataset_name", *(dataset for dataset, _ in pairs), "--pred_path", *predictions, "--gt_path", *masks]
    return [*words, "--method", *(method for _, method in pairs)]


def scored(map_path: Path, mask_path: Path) -> dict[str, float]:
    """MAE, IoU at 0.5 and, for curves, precision and recall at the cuts >= 255, 254, ..., 0."""
    grey, mask = (np.asarray(Image.open(path).convert("L")) for path in (map_path, mask_path))
    mask, cuts = mask > 128, np.arange(255, -1, -1)
    hits, all_found = ((x[None] >= cuts[:, None]).sum(1) for x in (grey[mask], grey.ravel()))
    both, either = (mask & (grey > 127)).sum(), (mask | (grey > 127)).sum()
    return {
        "MAE": np.abs(grey / 255 - mask).mean(),
        "IoU_05": both / either if either else np.nan,
        "precision": hits / np.maximum(all_found, 1),
        "recall": hits / max(mask.sum(), 1),
        "level_pixels": np.bincount(grey.ravel().astype(int), minlength=256),
        "level_foreground": np.bincount(grey[mask].astype(int), minlength=256),
    }


def result_of(dataset: str, method: str, predictions, masks, photographs=None) -> MethodResult:
    scores = [scored(*files) for files in zip(predictions, masks, strict=True)]
    per_image = {key: np.array([score[key] for score in scores]) for key in ("IoU_05", "MAE")}
    precision, recall = (np.mean([score[key] for score in scores], axis=0) for key in ("precision", "recall"))
    levels = {key: np.mean([score[key] for score in scores], axis=0) for key in ("level_pixels", "level_foreground")}
    f = 1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-9)
    return MethodResult(
        dataset=dataset,
        method=method,
        images=[path.stem for path in masks],
        predictions=list(predictions),
        masks=list(masks),
        photographs=photographs or [None] * len(masks),
        per_image=per_image,
        curves={"precision": precision, "recall": recall, "F": f, "E": f} | levels,
        table={key: float(np.nanmean(values)) for key, values in per_image.items()},
    )


def made_up(folder: Path, dataset: str, count: int, methods: list[str], with_photographs: bool) -> list[MethodResult]:
    """Rectangles, and maps of them with noise."""
    rng = np.random.default_rng(len(dataset))
    masks, photographs, maps = [], [], {method: [] for method in methods}
    for i in range(count):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 16 + i % 20, 10:34] = 255
        masks.append(folder / dataset / f"masks/{i:03}.png")
        photographs.append(folder / dataset / f"images/{i:03}.png" if with_photographs else None)
        save(masks[-1], mask)
        if with_photographs:
            save(photographs[-1], rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        for m, method in enumerate(methods):
            maps[method].append(folder / dataset / f"map{m}/{i:03}.png")
            noise = rng.normal(0, rng.uniform(20, 120), mask.shape)
            noisy = np.clip(mask + noise, 0, 255)
            noisy[0, :2] = 0, 255  # as stretched as it gets
            save(maps[method][-1], noisy.astype(np.uint8))
    return [result_of(dataset, method, maps[method], masks, photographs) for method in methods]
