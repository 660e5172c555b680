"""From flags to a running page that keeps to itself: one temporary folder, no network but its own address."""

from __future__ import annotations

import importlib
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, print_line, warn
from ..families.load import Checkpoint, open_model
from ..families.settings import find_recipe
from ..masks.open import open_predictor, read_model_file
from ..masks.predictor import PredictOptions
from ..prompts.prompter import find_trained_framing
from ..recipe import ForegroundRule
from ..runtime.device import pick_device
from ..runtime.signals import Signals
from ..weights.formats import read_named_files
from ..weights.weight_files import NO_FILES, WeightPaths
from .files import Example, Limits
from .masks.session import Bench, Method
from .prompts.session import PromptBench, PromptMethod

UPLOADS, EXAMPLES = "uploads", "examples"  # folders in the temporary one


def run(
    checkpoints: Sequence[Path],
    make_examples: Callable[[Path], list[Example]],
    weight_paths: WeightPaths = NO_FILES,
    size: int | None = None,
    device: str | None = None,
    mask_threshold: ForegroundRule = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Until Ctrl-C or SIGTERM; then the folder goes.

    Args:
        checkpoints: one, or two to compare.
        make_examples: writes them into a folder and returns them.
        port: 0 for a free one.
    """
    check_address(host, port)
    with kept_inside() as home:
        import_page()  # what is not installed is said before weights are read
        methods = open_methods(checkpoints, weight_paths, size, device)
        serve(methods, home, make_examples, limits or Limits(), host, port, mask_threshold)


@contextmanager
def kept_inside() -> Iterator[Path]:
    """The one folder that the page writes to. It is removed whenever a signal or an error ends the page."""
    with Signals() as signals, signals.stop_now():
        home = Path(tempfile.mkdtemp(prefix="sam2unet-demo-")).resolve()
        try:
            keep_inside(home)
            yield home
        finally:
            remove_folder(home)


def remove_folder(folder: Path) -> None:
    """Again and again for up to 5 s: a thread that is not done yet may still write into it."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    warn(f"could not remove {folder}, which holds the visitors' files; remove it by hand")


def serve(
    methods: Sequence[Method] | PromptMethod,
    home: Path,
    make_examples: Callable[[Path], list[Example]],
    limits: Limits,
    host: str,
    port: int,
    mask_threshold: ForegroundRule = None,
) -> None:
    """`run` with what is open: one or two methods for masks, or one for prompts."""
    folders, computing = (home / UPLOADS, home / EXAMPLES), threading.Lock()
    (home / EXAMPLES).mkdir()
    examples = make_examples(home / EXAMPLES)
    if isinstance(methods, PromptMethod):
        bench = PromptBench(methods, home, folders, limits, computing)
        blocks = import_page("prompt_page").build(bench, examples)
    else:
        for method in methods:
            method.predictor.forward = one_at_a_time(method.predictor.forward, computing)
        blocks = import_page().build(Bench(methods, home, folders, limits, mask_threshold), examples)
    start(blocks, home / UPLOADS, limits, host, port or free_port(host))
    try:
        while True:  # in steps: a signal that another thread receives does not end a wait, but is handled after it
            time.sleep(0.2)
    finally:
        blocks.close(verbose=False)
        computing.acquire(timeout=60)  # and never let go: PyTorch aborts a process that ends while it computes


def one_at_a_time(forward: Callable[[Tensor], Tensor], lock: threading.Lock) -> Callable[[Tensor], Tensor]:
    def call(images: Tensor) -> Tensor:
        with lock:
            return forward(images)

    return call


def check_address(host: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}; it must be from 0 (a free one) to 65535")
    if not is_loopback(host):
        warn(f"who reaches {host}:{port or '...'} can use this page; it has no password")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def keep_inside(home: Path) -> None:
    """Uploads, copies and temporary files of all libraries go below `home`. Before gradio is imported."""
    tempfile.tempdir = str(home)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(home / UPLOADS),
        "GRADIO_EXAMPLES_CACHE": str(home / UPLOADS),  # else files below ./.gradio could be read
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(home / "cache"),  # gradio imports matplotlib, which writes a list of fonts
    }


def import_page(name: str = "page"):
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as e:
        if e.name != "gradio":
            raise
        raise UserError('the demo needs gradio, which is not installed: pip install -e ".[demo]"') from e


def open_methods(
    checkpoints: Sequence[Path], weight_paths: WeightPaths, size: int | None, device: str | None
) -> list[Method] | PromptMethod:
    """Methods for masks, or the one for prompts."""
    if not 1 <= len(checkpoints) <= 2:
        raise UserError(f"{len(checkpoints)} checkpoints given; one can be shown, or two compared")
    target, weight_files = pick_device(device), [read_named_files(path) for path in checkpoints]
    methods = []
    for path, name, needed in zip(checkpoints, make_model_names(checkpoints), weight_files, strict=True):
        own = (
            {flag: file for flag, file in weight_paths.items() if flag in needed} if any(weight_files) else weight_paths
        )
        found = read_model_file(path)
        if isinstance(found, Checkpoint) and found.family.task == "prompts":
            if len(checkpoints) > 1:
                raise UserError(f"{path} takes prompts and has a page of its own; give it alone")
            return open_prompts(found, name, target, own, size)
        methods.append(Method(name, open_predictor(found, target, own, PredictOptions(size=size))))
    return methods


def open_prompts(
    found: Checkpoint, name: str, device: torch.device, weight_paths: WeightPaths, size: int | None
) -> PromptMethod:
    model = open_model(found, weight_paths, device)
    if size not in (None, model.side):
        raise UserError(f"{found.path} sees images at {model.side}x{model.side} alone; leave --size out")
    recipe = find_recipe(found)
    return PromptMethod(name, model, find_trained_framing(found), recipe.mask_prompt, recipe.multimask)


def make_model_names(checkpoints: Sequence[Path]) -> list[str]:
    """Stems; with the folder where two are the same, and numbered where that is not enough."""
    names = [path.stem for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names


def refuse_connection(event: str, args: tuple) -> None:
    """An audit hook. The page answers requests and sends none, whatever a visitor makes a library try."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        raise PermissionError(f"the page connects to no other address; refused {event}")


def start(blocks, uploads: Path, limits: Limits, host: str, port: int) -> None:
    """In threads of their own."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .access import AccessControl

    functions = [number for number, function in blocks.fns.items() if function.fn is not None]
    middleware = [Middleware(AccessControl, uploads, functions)]
    if is_loopback(host):  # else a web page elsewhere could reach this one under a name of its own
        own = ["localhost", "127.0.0.1", "[::1]", host]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=own))
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            max_file_size=int(limits.megabytes * 1e6),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            inbrowser=False,
            theme=theme,
            css=(Path(__file__).parent / "page.css").read_text(),
            app_kwargs={"middleware": middleware},
        )
    except OSError as e:
        raise UserError(f"cannot listen on {host}:{port}; give another --port, or 0 for a free one") from e
    sys.addaudithook(refuse_connection)
    print_line(f"demo at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
