"""The checks of `benchmarks gpu`: results on the device against the CPU, resumed runs, and the options of test.py."""

from __future__ import annotations

import argparse
import multiprocessing
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import Alone, Cells, Measurement, build_model
from sam2unet.atomic import sha256
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import Pair, match
from sam2unet.families.load import save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import find_family
from sam2unet.layers.dino import Dino
from sam2unet.layers.hiera import hiera
from sam2unet.layers.sam3_vit import sam3_vit
from sam2unet.limits import round_size
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.prompts.dataset import PromptBatches, PromptFolder
from sam2unet.prompts.framing import Framing
from sam2unet.prompts.lists import ImageMasks, read_train_list, write_test_list, write_train_list
from sam2unet.prompts.step import prompt_step
from sam2unet.recipe import Recipe
from sam2unet.run_command import ROOT
from sam2unet.runtime.device import autocast, can_compile, pick_device, pick_half_type
from sam2unet.training.trainer import seed_update
from sam2unet.weights.formats import save_state
from sam2unet.weights.pretrained import SAM3_TRUNK
from sam2unet.weights.weight_files import WEIGHT_FLAGS

Record = Callable[[str, str, Measurement | str, Cells], None]  # table, row
Data = dict[str, Path]  # the folders that `make_data` wrote
Pass = dict[str, Tensor]  # the logits, the loss and the gradient of a training step, on the CPU
MODELS = (  # name, encoder, dino, side
    ("sam2unet", "tiny", None, 352),
    ("sam2unet", "large", None, 352),
    ("sam2unext", "tiny", "small", 352),
    ("sam3unet", "large", None, 336),
    ("sam_med2d", "vit_b", None, 256),
)
# Largest difference of the logits, as a share of their standard deviation (root mean square), of the loss as a share of
# the loss, and of the gradient as a share of its norm. In bf16 on a CPU, large at 96 has 0.043, 0.00027 and 0.25.
TOLERANCES = {
    "fp32": {"logits": 1e-3, "loss": 1e-4, "gradient": 1e-2},
    "bf16": {"logits": 0.1, "loss": 0.02, "gradient": 0.3},
}


def compare_passes(
    name: str, encoder: str, dino: str | None, side: int, record: Record, data: Data, device: str | None, quick: bool
) -> None:
    """Compares one training step: fp32 on the device and on the CPU; bf16, compiled and DDP with fp32 on the device.

    With `quick`, the model is tiny.
    """
    model, device = (
        (name, "micro", dino, round_size(64, find_family(name).stride)) if quick else (name, encoder, dino, side),
        pick_device(device),
    )
    compare = partial(compare_pass, record, f"one training step of {' '.join(str(part) for part in model if part)}")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    run = prepare_step(*model, data)
    truth, base = run(torch.device("cpu")), run(device)
    compare("fp32, device and CPU", base, truth, "fp32")
    if pick_half_type(device) == "bf16":
        compare("bf16 and fp32", run(device, amp="bf16"), base, "bf16")
    # This process connects to itself by the library that train.py uses under torchrun: NCCL on a GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    wrapped = prepare_step(*model, data)(device, wrap=DistributedDataParallel)  # DDP leaves hooks in its model
    compare("DDP and one process", wrapped, base, "fp32")
    if can_compile(device):
        compare("compiled and eager, fp32", run(device, wrap=torch.compile), base, "fp32")


def prepare_step(name: str, encoder: str, dino: str | None, side: int, data: Data) -> Callable[..., Pass]:
    """Returns a function that computes the first losses of a training step and their gradients, for a new model."""
    files = dict.fromkeys((*WEIGHT_FLAGS, "weights_from"))
    args = argparse.Namespace(model=name, encoder=encoder, dino=dino, size=side, seed=0, **files)
    network, recipe = build_model(args).train(), Recipe.read(model=name, size=side)
    if find_family(name).task == "prompts":
        items = read_train_list(data["lists"])
        folder, batches, step = PromptFolder(items, Framing(side), 2), PromptBatches(len(items), 2, seed=0), prompt_step
    else:
        pairs = match(data["images"], data["masks"])
        folder, batches, step = MaskFolder(pairs, side), Batches(len(pairs), 2, seed=0), mask_step
    batch = folder.__getitems__(next(iter(batches)))

    def run_pass(device: torch.device, amp: str = "off", wrap: Callable = lambda network: network) -> Pass:
        network.to(device).zero_grad(set_to_none=True)
        seed_update(0, 0)  # so that each pass draws the same
        forward, outputs = wrap(network), []

        def call(*inputs):
            outputs.append(forward(*inputs))
            return outputs[-1]

        with autocast(device, amp):
            loss = sum(next(step(call, batch.on(device), recipe)).values())
        loss.backward()
        logits = outputs[0]["low_res_logits"] if isinstance(outputs[0], dict) else outputs[0][0]
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        parts = {"logits": logits, "loss": loss, "gradient": gradient}
        return {name: part.detach().cpu().double() for name, part in parts.items()}

    return run_pass


def compare_pass(record: Record, table: str, row: str, new: Pass, base: Pass, kind: str) -> None:
    tolerances, numbers, cells = TOLERANCES[kind], {}, {}
    for name, value in base.items():
        scale = value - value.mean() if name == "logits" else value
        numbers[name] = ((new[name] - value).norm() / scale.norm()).item()
        cells[name] = f"{numbers[name]:.1e} ({tolerances[name]:g})"
    record(table, row, numbers | {"ok": all(numbers[name] <= tolerances[name] for name in numbers)}, cells)


def run_script(name: str, words: list[str]) -> None:
    """Runs a script of the project in this process."""
    script = runpy.run_path(str(ROOT / name))
    script["run"](script["parser"]().parse_args(words))


def check_resume(record: Record, data: Data, device: str | None, quick: bool) -> None:
    """Checks that a run that was killed and resumed, and a run under torchrun, give the bits of an undisturbed run."""
    words = f"--train_image_path {data['images']} --train_mask_path {data['masks']} --encoder tiny --finetune adapters"
    words += " --size 64 --batch_size 2 --epoch 2 --workers 0 --deterministic --save_minutes 0 --resume auto"
    words += f" --device {device}" if device else ""
    with tempfile.TemporaryDirectory() as folder:

        def start(name: str) -> multiprocessing.Process:
            flags = [*words.split(), "--save_path", f"{folder}/{name}"]
            process = multiprocessing.get_context("fork").Process(target=run_script, args=("train.py", flags))
            process.start()  # a fork is faster than a new interpreter; this process has not used the GPU
            return process

        whole, killed, state, versions = start("whole"), start("killed"), Path(folder, "killed/last.pt"), set()
        while killed.is_alive() and len(versions) < 3:
            versions |= {state.stat().st_mtime_ns} if state.exists() else set()
            time.sleep(0.002)
        killed.kill()
        killed.join()
        resumed = start("killed")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
        subprocess.run([*command, str(ROOT / "train.py"), *words.split(), "--save_path", f"{folder}/torchrun"])
        whole.join()
        resumed.join()
        for name, row in (("killed", "killed and resumed"), ("torchrun", "torchrun, one process")):
            files = [Path(folder, run, "SAM2-UNet-2.pth") for run in ("whole", name)]
            same = all(file.exists() for file in files) and len(set(map(sha256, files))) == 1
            cells = {"bits of an undisturbed run": "same" if same else "DIFFERENT or missing"}
            record("train.py --deterministic", row, {"ok": same and (name != "killed" or killed.exitcode == -9)}, cells)


UNET = "--checkpoint {files}/sam2unet.pth --size 64"
MASKS = "--save_path {new} --test_image_path {images}"
PROMPTS = "--save_path {new} --data_path {lists} --checkpoint {files}/sam_med2d.pth"
TEST_LINES = (  # together they have every option of test.py
    f"{MASKS} {UNET} --batch_size 2 --workers 1 --on_bad_image skip --recursive --test_gt_path {{masks}}",
    f"{MASKS} {UNET} --overlay --contours --uncertainty --save_prob float16 --components 4 --threshold 0.5",
    f"{MASKS} {UNET} --tta flip,scale --tile 48,8 --calibrated --no_minmax --skip_existing",
    f"{MASKS} {UNET} --amp bf16 --window full --axis 0 --context 0 --save_slices --dicom_seg",
    f"--save_path {{new}} --data {{images}}/.. {UNET} --exact",
    f"{MASKS} {UNET} --compile",
    f"{MASKS} {UNET} --fast",
    f"{MASKS} --checkpoint {{files}}/sam2unet.safetensors --hiera_path {{files}}/hiera.pt --weights_from meta",
    f"{MASKS} --checkpoint {{files}}/sam2unext.safetensors --dinov2_path {{files}}/dino.pt",
    f"{MASKS} --checkpoint {{files}}/sam3unet.safetensors --sam3_path {{files}}/sam3.pt",
    f"{PROMPTS} --boxes_prompt True --point_num 1 3 --iter_point 2 --save_pred True --seed 1",
    f"{PROMPTS} --image_size 96 --encoder_adapter False --multimask False --rgb True",
    f"{PROMPTS} --mask_prompt logits --mask_threshold 127 --model_type vit_b --lr_scheduler none",
    f"{PROMPTS} --foreground 255 --use_amp True",
    f"{PROMPTS} --prompt_path {{prompts}}",
    "--sam_checkpoint {files}/sam_med2d.pth --data_path {lists} --work_dir {new} --run_name a --metrics iou",
)


def check_options(record: Record, data: Data, device: str | None, quick: bool) -> None:
    """Runs test.py in this process with every option. The weights are random."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder, "data"), 2, (60, 80)) | write_checkpoints(Path(folder))
        for number, line in enumerate(TEST_LINES):
            new, row = Path(folder, str(number)), " ".join(word for word in line.split() if word.startswith("--"))
            prompts = next(Path(folder).glob("*/64_prompt.json"), "")  # an earlier command wrote it
            words = line.format(**data, new=new, prompts=prompts).split() + (["--device", device] if device else [])
            if "--compile" in words and not can_compile(pick_device(device)):
                record("test.py", row, "not measured: the device does not compile", {})
                continue
            try:
                run_script("test.py", words)
                count = sum(path.is_file() for path in new.rglob("*"))
                record("test.py", row, {"ok": count > 1}, {"files": str(count)})
            except (Exception, SystemExit) as e:
                record("test.py", row, Alone().report(e), {})


def write_checkpoints(folder: Path) -> Data:
    """Writes micro models, also without the weights of a frozen part. Returns the folder as `files`."""
    trunk = {f"image_encoder.trunk.{name}": t for name, t in hiera("micro").state_dict().items()}
    save_state(trunk, folder / "hiera.pt")
    trunk = {f"{SAM3_TRUNK}{name}": t for name, t in sam3_vit("micro").state_dict().items()}
    save_state(trunk, folder / "sam3.pt")
    save_state(Dino("small").model.state_dict(), folder / "dino.pt")
    for name, shape, paths in (
        ("sam2unet", NetworkShape(), {"hiera_path": folder / "hiera.pt"}),
        ("sam2unext", NetworkShape(encoder="micro"), {"dinov2_path": folder / "dino.pt"}),
        ("sam3unet", NetworkShape(), {"sam3_path": folder / "sam3.pt"}),
        ("sam_med2d", NetworkShape(encoder="micro", size=64), {}),
    ):
        model, files = start_model(name, shape, paths)
        save_checkpoint(model, folder / f"{name}.pth")
        (folder / "calibration.yaml").write_text("sam2unet.pth: 1.5")
        if files:
            save_checkpoint(
                model,
                folder / f"{name}.safetensors",
                files,
                recipe=Recipe.read(model=name, size=round_size(64, find_family(name).stride)),
            )
    return {"files": folder}


def make_data(folder: Path, count: int, size: tuple[int, int]) -> Data:
    """Writes `count` photographs of `size` (height, width) with an ellipse, its mask, a soft map, and lists."""
    names = ("images", "masks", "maps", "lists")
    for name in names:
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise, pairs = rng.integers(0, 20, (*size, 3), np.uint8), []
    for number in range(count):
        photo = cv2.resize(rng.integers(20, 200, (12, 16, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        mask, centre = np.zeros(size, np.uint8), tuple(int(side * rng.uniform(0.4, 0.6)) for side in size[::-1])
        cv2.ellipse(mask, centre, (size[1] // 4, size[0] // 5), float(rng.uniform(0, 180)), 0, 360, 255, -1)
        photo[mask > 0] = 255 - photo[mask > 0]
        pairs.append(Pair(folder / f"images/{number:03}.jpg", folder / f"masks/{number:03}.png"))
        cv2.imwrite(str(pairs[-1].image), cv2.add(photo, noise))
        cv2.imwrite(str(pairs[-1].mask), mask)
        cv2.imwrite(str(folder / f"maps/{number:03}.png"), cv2.GaussianBlur(mask, (0, 0), size[0] / 40))
    write_train_list(folder / "lists", [ImageMasks(pair.image, (pair.mask,)) for pair in pairs])
    write_test_list(folder / "lists", pairs)
    return {name: folder / name for name in names}
