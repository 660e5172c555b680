"""Starts a page and stops it. The page writes to one temporary folder only, and connects to no other address."""

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
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import UserError, print_line, warn
from ..families.load import Checkpoint, open_model
from ..limits import check_numbers
from ..masks.prediction.open import open_predictor, read_model_file
from ..masks.prediction.options import PredictOptions
from ..models.sam_med2d import SAMMed2D
from ..recipe import ForegroundRule
from ..runtime.device import pick_device
from ..runtime.signals import Signals
from ..weights.formats import read_named_files
from ..weights.weight_files import NO_FILES, WeightPaths
from .files import Example, Limits
from .masks.session import Bench, Method
from .prompts.session import PromptBench, PromptMethod

if TYPE_CHECKING:
    from gradio import Blocks

UPLOADS, EXAMPLES = "uploads", "examples"  # folders in the temporary folder
CONTRAST = {  # values of the theme with a contrast of at least 4.5 to their background, light and dark
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
}
OFF = ("share", "run_history", "enable_monitoring", "ssr_mode", "mcp_server", "pwa", "inbrowser")  # parts of gradio


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
    """Serves a page until Ctrl-C or SIGTERM, then removes its folder. Raises UserError if the page cannot start.

    Args:
        checkpoints: one checkpoint, or two checkpoints of models for masks, which the page compares.
        make_examples: writes the example images into a folder and returns them.
        size: side of the input. None: the side of the checkpoint.
    """
    check_address(host, port)
    with make_home() as home:
        import_page("masks")  # reports missing packages before it reads the weights
        methods = open_methods(checkpoints, weight_paths, size, device)
        serve(methods, home, make_examples, limits or Limits(), host, port, mask_threshold)


@contextmanager
def make_home() -> Iterator[Path]:
    """Makes the temporary folder of the page. Removes it when the page ends, also after a signal or an error."""
    with Signals() as signals, signals.stop_now():
        home = Path(tempfile.mkdtemp(prefix="sam2unet-demo-")).resolve()
        try:
            redirect_temporary_files(home)
            yield home
        finally:
            remove_folder(home)


def remove_folder(folder: Path) -> None:
    """Removes a folder. Repeats this for up to 5 s, because a thread can still write into it."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    warn(f"could not remove {folder}, which contains files of visitors; remove it yourself")


def serve(
    methods: Sequence[Method] | PromptMethod,
    home: Path,
    make_examples: Callable[[Path], list[Example]],
    limits: Limits,
    host: str,
    port: int,
    mask_threshold: ForegroundRule = None,
) -> None:
    """Serves a page for opened models: one or two models for masks, or one model for prompts."""
    folders, model_lock = (home / UPLOADS, home / EXAMPLES), threading.Lock()
    (home / EXAMPLES).mkdir()
    has_classes = not isinstance(methods, PromptMethod) and methods[0].predictor.classes
    if mask_threshold is not None and (has_classes or isinstance(methods, PromptMethod)):
        raise UserError("the page of this checkpoint takes no masks; leave --mask_threshold and --foreground out")
    examples = [] if has_classes else make_examples(home / EXAMPLES)  # their masks are for foreground and background
    if isinstance(methods, PromptMethod):
        prompt_bench = PromptBench(methods, home, folders, limits, model_lock)
        blocks = import_page("prompts").build_prompt_page(prompt_bench, examples)
    else:
        for method in methods:
            method.predictor.forward = hold_lock(method.predictor.forward, model_lock)
        bench = Bench(methods, home, folders, limits, mask_threshold)
        blocks = import_page("masks").build_mask_page(bench, examples)
    start(blocks, home / UPLOADS, limits, host, port)
    try:
        while True:  # short waits: a signal that another thread receives is handled only after a wait
            time.sleep(0.2)
    finally:
        blocks.close(verbose=False)
        model_lock.acquire(timeout=60)  # is not released: PyTorch aborts a process that ends while it computes


def hold_lock(forward: Callable[[Tensor], Tensor], lock: threading.Lock) -> Callable[[Tensor], Tensor]:
    """Returns `forward` as a function that holds the lock while it runs."""

    def call(images: Tensor) -> Tensor:
        with lock:
            return forward(images)

    return call


def check_address(host: str, port: int) -> None:
    """Refuses impossible ports. Warns if other computers can reach the page."""
    check_numbers({"port": port})
    if not is_loopback(host):
        warn(f"everyone who can reach {host}:{port or '...'} can use this page; it has no password")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_port(host: str, port: int) -> int:
    """Returns `port`, or a free one for 0. Raises OSError if this computer cannot listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a page that has just ended is free
        probe.bind((host, port))
        return probe.getsockname()[1]


def redirect_temporary_files(home: Path) -> None:
    """Makes all libraries write uploads, copies and temporary files below `home`. Call this before importing gradio."""
    tempfile.tempdir = str(home)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(home / UPLOADS),
        "GRADIO_EXAMPLES_CACHE": str(home / UPLOADS),  # otherwise visitors could read files below ./.gradio
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(home / "cache"),  # gradio imports matplotlib, which writes a list of fonts
    }


def import_page(task: str) -> ModuleType:
    """Imports the page of a task, `masks` or `prompts`. Raises UserError if gradio is not installed."""
    try:
        return importlib.import_module(f".{task}.page", __package__)
    except ModuleNotFoundError as e:
        if e.name != "gradio":
            raise
        raise UserError('the demo needs gradio, which is not installed: pip install "sam2unet[demo]"') from e


def open_methods(
    checkpoints: Sequence[Path], weight_paths: WeightPaths, size: int | None, device: str | None
) -> list[Method] | PromptMethod:
    """Opens one or two models for masks, or one model for prompts. UserError for other checkpoints."""
    if not 1 <= len(checkpoints) <= 2:
        raise UserError(f"{len(checkpoints)} checkpoints are given; give one, or two to compare")
    target, weight_files = pick_device(device), [read_named_files(path) for path in checkpoints]
    methods = []
    for path, name, needed in zip(checkpoints, make_model_names(checkpoints), weight_files, strict=True):
        paths = {flag: file for flag, file in weight_paths.items() if flag in needed or not any(weight_files)}
        model_file = read_model_file(path)
        if isinstance(model_file, Checkpoint) and model_file.family.task == "prompts":
            if len(checkpoints) > 1:
                raise UserError(
                    f"{path} is a model for prompts, which has its own page; give it as the only checkpoint"
                )
            model = open_model(model_file, paths, target)
            assert isinstance(model, SAMMed2D)
            if size not in (None, model.side):
                raise UserError(f"{model_file.path} takes images at {model.side}x{model.side} only; leave --size out")
            return PromptMethod(name, model)
        methods.append(Method(name, open_predictor(model_file, target, paths, PredictOptions(size=size))))
    if methods[0].predictor.classes != methods[-1].predictor.classes:
        raise UserError(f"{checkpoints[0]} and {checkpoints[1]} have different classes; give one of them")
    return methods


def make_model_names(checkpoints: Sequence[Path]) -> list[str]:
    """Returns the stems of the files. If they are the same, adds the folders, then numbers."""
    names = [path.stem for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names


def refuse_connection(event: str, args: tuple) -> None:
    """An audit hook. The page must not send requests, even if a visitor makes a library try."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        raise PermissionError(f"the page must not connect to other addresses; refused {event}")


def start(blocks: "Blocks", uploads: Path, limits: Limits, host: str, port: int) -> None:
    """Starts the server in other threads and prints its address."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .access import AccessControl

    functions = [number for number, function in blocks.fns.items() if function.fn is not None]
    middleware = [Middleware(AccessControl, uploads, functions)]
    if is_loopback(host):  # otherwise another site could reach this page through its own host name (DNS rebinding)
        hosts = ["localhost", "127.0.0.1", "[::1]", host]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts))
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono).set(**CONTRAST)
    off: dict[str, Any] = dict.fromkeys(OFF, False)
    name = f"[{host}]" if ":" in host else host  # the form of an IPv6 address in a web address
    try:
        port = find_port(host, port)
        blocks.launch(
            server_name=name,
            server_port=port,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            max_file_size=int(limits.megabytes * 1e6),
            footer_links=[],
            theme=theme,
            css=(Path(__file__).parent / "page.css").read_text(),
            app_kwargs={"middleware": middleware},
            **off,
        )
    except (OSError, UnicodeError) as e:  # UnicodeError: the name of the host is impossible
        reason = getattr(e, "strerror", None) or "the address or the port cannot be used"
        raise UserError(
            f"cannot listen on {name}:{port} ({reason}); give another --host, or --port 0 for any free port"
        ) from e
    sys.addaudithook(refuse_connection)
    print_line(f"demo at http://{name}:{port} (stop it with Ctrl-C)")
