"""The checks of `benchmarks gpu`: results on the device against the CPU, resumed runs, and the options of test.py."""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import explain
from benchmarks.models import build_model, complete_flags
from benchmarks.train import make_task
from sam2unet.atomic import sha256
from sam2unet.commands import test, train
from sam2unet.data.index.build import build_index
from sam2unet.data.pairs import Pair
from sam2unet.families.load import save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.layers.dino import Dino
from sam2unet.layers.hiera import hiera
from sam2unet.layers.sam3_vit import sam3_vit
from sam2unet.limits import round_size
from sam2unet.prompts.lists import ImageMasks, write_test_list, write_train_list
from sam2unet.recipe import Recipe
from sam2unet.run_command import ROOT
from sam2unet.runtime.device import autocast, can_compile, pick_device, pick_half_type
from sam2unet.runtime.processes import Processes
from sam2unet.training.trainer import seed_update
from sam2unet.weights.formats import save_state
from sam2unet.weights.pretrained import SAM3_TRUNK

Data = dict[str, Path]  # the folders that `make_data` wrote
Pass = dict[str, Tensor]  # the logits, the loss and the gradient of a training step, on the CPU
# Largest difference of the logits, as a share of their standard deviation (root mean square), of the loss as a share of
# the loss, and of the gradient as a share of its norm. In bf16 on a CPU, large at 96 has 0.043, 0.00027 and 0.25.
LIMITS = {
    "fp32": {"logits_limit": 1e-3, "loss_limit": 1e-4, "gradient_limit": 1e-2},
    "bf16": {"logits_limit": 0.1, "loss_limit": 0.02, "gradient_limit": 0.3},
}


def compare_passes(args: argparse.Namespace) -> None:
    """One training step: fp32 on the device and on the CPU; bf16, compiled and DDP with fp32 on the device."""
    complete_flags(args)
    device, cpu = pick_device(args.device), torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model = build_model(args).train()
    truth, base = run_pass(args, model, cpu), run_pass(args, model, device)
    passes = {"fp32, device and CPU": lambda: (base, truth, "fp32")}
    if pick_half_type(device) == "bf16":
        passes["bf16 and fp32"] = lambda: (run_pass(args, model, device, amp="bf16"), base, "bf16")
    if can_compile(device):
        passes["compiled and eager, fp32"] = lambda: (run_pass(args, model, device, torch.compile), base, "fp32")
    # This process connects to itself by the library that train.py uses under torchrun: NCCL on a GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    passes["DDP and one process"] = lambda: (run_pass(args, model, device, DistributedDataParallel), base, "fp32")
    name = " ".join(filter(None, (args.model, args.encoder, args.dino, str(args.size))))
    for row, compute in passes.items():
        args.results.add("pass", f"one training step of {name}", row, compare_pass(*compute()))


def run_pass(
    args: argparse.Namespace,
    model: nn.Module,
    device: torch.device,
    wrap: Callable[[nn.Module], Callable] = lambda model: model,
    amp: str = "off",
) -> Pass:
    """Computes the first losses of a training step and their gradients."""
    task = make_task(args, Recipe.read(model=args.model, size=args.size, batch_size=2))
    batch = task.dataset("off", Path(), Processes()).__getitems__(next(iter(task.batches(Processes()))))
    model.to(device).zero_grad(set_to_none=True)
    seed_update(0, 0)  # so that each pass draws the same
    forward, outputs = wrap(model), []

    def call(*inputs):
        outputs.append(forward(*inputs))
        return outputs[-1]

    with autocast(device, amp):
        loss = sum(next(task.step(call, batch.on(device), task.recipe)).values())
    loss.backward()
    logits = outputs[0]["low_res_logits"] if isinstance(outputs[0], dict) else outputs[0][0]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    parts = {"logits": logits, "loss": loss, "gradient": gradient}
    return {name: part.detach().cpu().double() for name, part in parts.items()}


def compare_pass(new: Pass, base: Pass, precision: str) -> dict[str, object]:
    limits, numbers = LIMITS[precision], {}
    for name, value in base.items():
        scale = value - value.mean() if name == "logits" else value
        numbers[name] = ((new[name] - value).norm() / scale.norm()).item()
    return numbers | limits | {"ok": all(numbers[name] <= limits[f"{name}_limit"] for name in numbers)}


def check_resume(args: argparse.Namespace) -> None:
    """Whether a run that was killed and resumed, and a run under torchrun, give the bits of an undisturbed run."""
    words = ["--encoder", "tiny", "--finetune", "adapters", "--size", "64", "--batch_size", "2", "--epoch", "2"]
    words += ["--workers", "0", "--deterministic", "--save_minutes", "0", "--resume", "auto"]
    words += ["--train_image_path", *args.train_image_path, "--train_mask_path", *args.train_mask_path]
    words = [*map(str, words)] + (["--device", args.device] if args.device else [])
    with tempfile.TemporaryDirectory() as folder:

        def start(name: str) -> multiprocessing.Process:
            flags = [*words, "--save_path", f"{folder}/{name}"]
            process = multiprocessing.get_context("fork").Process(
                target=train.run, args=[train.parser().parse_args(flags)]
            )
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
        subprocess.run([*command, str(ROOT / "train.py"), *words, "--save_path", f"{folder}/torchrun"])
        whole.join()
        resumed.join()
        for name, row in (("killed", "killed and resumed"), ("torchrun", "torchrun, one process")):
            files = [Path(folder, run, "SAM2-UNet-2.pth") for run in ("whole", name)]
            same = all(map(Path.exists, files)) and len(set(map(sha256, files))) == 1
            result = f"{'the same bits as' if same else 'DIFFERS from'} an undisturbed run"
            numbers = {"result": result, "ok": same and (name != "killed" or killed.exitcode == -9)}
            args.results.add("check", "train.py --deterministic", row, numbers)


UNET = "--checkpoint {files}/sam2unet.pth --size 64"
MASKS = "--save_path {new} --test_image_path {images}"
PROMPTS = "--save_path {new} --data_path {lists} --checkpoint {files}/sam_med2d.pth"
TEST_LINES = (  # together they have every option of test.py
    f"{MASKS} {UNET} --batch_size 2 --workers 1 --on_bad_image skip --recursive --test_gt_path {{masks}}",
    f"{MASKS} {UNET} --overlay --contours --uncertainty --save_prob float16 --components 4 --threshold 0.5",
    f"{MASKS} {UNET} --tta flip,scale --tile 48,8 --calibrated --no_minmax --skip_existing",
    f"{MASKS} {UNET} --amp bf16 --window full --axis 0 --context 0 --save_slices --dicom_seg",
    f"--save_path {{new}} --data {{images}}/.. {UNET} --exact",
    f"{MASKS} {UNET} --archive --shard 1/2",
    f"--save_path {{new}} --index {{index}} --where width>1 --split case:0.01 {UNET}",
    f"{MASKS} {UNET} --compile",
    f"{MASKS} {UNET} --fast",
    f"{MASKS} --checkpoint {{files}}/sam2unet.safetensors --hiera_path {{files}}/hiera_path --weights_from meta",
    f"{MASKS} --checkpoint {{files}}/sam2unext.safetensors --dinov2_path {{files}}/dinov2_path",
    f"{MASKS} --checkpoint {{files}}/sam3unet.safetensors --sam3_path {{files}}/sam3_path",
    f"{PROMPTS} --boxes_prompt True --point_num 1 3 --iter_point 2 --save_pred True --seed 1",
    f"{PROMPTS} --image_size 96 --encoder_adapter False --multimask False --rgb True",
    f"{PROMPTS} --mask_prompt logits --mask_threshold 127 --model_type vit_b --lr_scheduler none",
    f"{PROMPTS} --foreground 255 --use_amp True --shard 1/1",
    f"{PROMPTS} --prompt_path {{prompts}}",
    "--sam_checkpoint {files}/sam_med2d.pth --data_path {lists} --work_dir {new} --run_name a --metrics iou",
)


def check_options(args: argparse.Namespace) -> None:
    """Runs test.py in this process with every option. The weights are random."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data", 2, (60, 80)) | {"files": write_checkpoints(folder)}
        data["index"] = build_index([folder / "data"], folder / "index", workers=1).folder
        for number, line in enumerate(TEST_LINES):
            new, row = folder / str(number), " ".join(word for word in line.split() if word.startswith("--"))
            prompts = next(folder.glob("*/64_prompt.json"), "")  # an earlier command wrote it
            words = line.format(**data, new=new, prompts=prompts).split()
            try:
                words += ["--device", args.device] if args.device else []
                test.run(test.parser().parse_args(words))
                count = sum(path.is_file() for path in new.rglob("*"))
                numbers = {"ok": count > 1, "result": f"{count} files"}
            except (Exception, SystemExit) as e:
                numbers = explain(e)
            args.results.add("check", "test.py", row, numbers)


def write_checkpoints(folder: Path) -> Path:
    """Writes micro models, also without the weights of a frozen part, which get the names of their flags."""
    parts = {
        "hiera_path": ("image_encoder.trunk.", hiera("micro")),
        "sam3_path": (SAM3_TRUNK, sam3_vit("micro")),
        "dinov2_path": ("", Dino("small").model),
    }
    for flag, (prefix, part) in parts.items():
        save_state({prefix + name: weight for name, weight in part.state_dict().items()}, folder / flag)
    for name, family in FAMILIES.items():
        paths = {flag.flag: folder / flag.flag for flag in family.weight_flags[-1:] if flag.flag in parts}
        encoder = "micro" if not {"hiera_path", "sam3_path"} & set(paths) else None
        shape = NetworkShape(encoder, size=64 if "size" in family.options else None)
        model, files = start_model(name, shape, paths)
        save_checkpoint(model, folder / f"{name}.pth")
        if files:
            recipe = Recipe.read(model=name, size=round_size(64, family.stride))
            save_checkpoint(model, folder / f"{name}.safetensors", files, recipe=recipe)
    (folder / "calibration.yaml").write_text("sam2unet.pth: 1.5")
    return folder


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
