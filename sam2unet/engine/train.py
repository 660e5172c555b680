"""Training, as released: AdamW, a cosine per epoch, every output's loss with equal weight."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..checkpoint import save_state
from ..config import Recipe
from ..data.check import check_pairs
from ..data.masks import MaskFolder, ShuffledFlips
from ..data.pairs import match
from ..errors import UserError
from ..families import Family, check_size, find_family
from ..files import make_folder
from .runtime import default_workers, pick_device, set_seed


def run(
    recipe: Recipe,
    image_folder: Path,
    mask_folder: Path,
    save_path: Path,
    hiera_path: Path | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Train and leave `<title>-<epoch>.pth` every five epochs and at the end, `recipe.yaml` beside them.

    Nothing is written before all that the user gave has been looked at. UserError where it cannot work.
    """
    family = find_family(recipe.model)
    check_size(family, recipe.size)
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; it must be 0 or above")
    target = pick_device(device)
    pairs = match(image_folder, mask_folder)
    refuse_single_values(family, recipe, len(pairs))
    set_seed(recipe.seed)
    model = family.build(encoder=recipe.encoder, hiera_path=hiera_path)
    if hiera_path is None:
        print("weights: none given (--hiera_path), so the whole network trains from random ones")
        model.requires_grad_(True)
    print_parts(family, model)
    check_pairs(pairs, recipe.mask_threshold)
    make_folder(save_path)
    recipe.write(save_path / "recipe.yaml")
    print(f"data: {len(pairs)} pairs at {recipe.size}x{recipe.size}, batch {recipe.batch_size}, on {target}")

    loader = DataLoader(
        MaskFolder(pairs, recipe.size, recipe.mask_threshold),
        batch_size=recipe.batch_size,
        sampler=ShuffledFlips(len(pairs), recipe.seed),
        num_workers=default_workers() if workers is None else workers,
        pin_memory=target.type == "cuda",
        persistent_workers=workers != 0,
    )
    fit(family, model.to(target), loader, recipe, save_path)


def refuse_single_values(family: Family, recipe: Recipe, pairs: int) -> None:
    """At the smallest size the coarsest map is one value, of which a batch of one image has no variance."""
    if recipe.size == family.stride and (recipe.batch_size == 1 or pairs % recipe.batch_size == 1):
        raise UserError(
            f"size {recipe.size} leaves BatchNorm a single value where a batch holds one image ({pairs} pairs in "
            f"batches of {recipe.batch_size}); give --size {2 * family.stride} or another --batch_size"
        )


def fit(family: Family, model: nn.Module, loader: DataLoader, recipe: Recipe, save_path: Path) -> None:
    device = next(model.parameters()).device
    optimizer, schedule = optimizer_of(model, recipe)
    for epoch in range(1, recipe.epoch + 1):
        model.train()
        total, seen, start = torch.zeros((), device=device), 0, time.perf_counter()
        with tqdm(total=len(loader.dataset), unit="img", desc=f"{epoch}/{recipe.epoch}", disable=None) as bar:
            for batch in loader:
                batch = [part.to(device, non_blocking=True) for part in batch]
                for loss in family.step(model, batch):
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                count = len(batch[0])
                total += loss.detach() * count
                seen += count
                bar.set_postfix(loss=f"{total.item() / seen:.4f}", refresh=False)
                bar.update(count)
        schedule.step()
        if not sys.stderr.isatty():
            rate = seen / (time.perf_counter() - start)
            print(f"epoch {epoch}/{recipe.epoch}  loss {total.item() / seen:.4f}  {rate:.1f} images/s", flush=True)
        if epoch % 5 == 0 or epoch == recipe.epoch:
            path = save_path / f"{family.title}-{epoch}.pth"
            save_state(model, path)
            print(f"saved {path}", flush=True)


def optimizer_of(
    model: nn.Module, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epoch, eta_min=1e-7)


def print_parts(family: Family, model: nn.Module) -> None:
    """A row per part: parameters, and whether they train."""
    print(f"{'part':<10}{'parameters':>14}")
    trained = 0
    for part, parameters in family.parts(model).items():
        count = sum(p.numel() for p in parameters)
        trains = any(p.requires_grad for p in parameters)
        trained += count if trains else 0
        print(f"{part:<10}{count:>14,}  {'trained' if trains else 'frozen'}")
    total = sum(p.numel() for p in model.parameters())
    print(f"{'trained':<10}{trained:>14,}  of {total:,}")
