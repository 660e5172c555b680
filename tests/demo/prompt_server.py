"""The page for prompts with a small model with random weights, as a process for the tests in a browser."""

import argparse
import os
import socket
from pathlib import Path

import numpy as np

from sam2unet.cli import Parser, main
from sam2unet.models.sam_med2d import SAMMed2D
from tests.conftest import save, tiny_sam_med2d

SIDE = 64


def small_model() -> SAMMed2D:
    return tiny_sam_med2d(SIDE).eval()


def photo(path: Path, size: tuple[int, int]) -> Path:
    """A bright disc on noise."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 90, (height, width, 3), dtype=np.uint8)
    save(path, np.where(np.hypot(x / width - 0.4, y / height - 0.5)[..., None] < 0.25, 240 - noise, noise))
    return path


def resolve_by(port: int) -> None:
    """Names of hosts are asked of a name server at that port of this computer, by one datagram for each."""
    resolve = socket.getaddrinfo

    def ask(host: str, *rest: object, **options: object) -> list:
        if host not in ("localhost", "127.0.0.1"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(host.encode(), ("127.0.0.1", port))
        return resolve("127.0.0.1", *rest, **options)

    socket.getaddrinfo = ask


def run(args: argparse.Namespace) -> None:
    from sam2unet.commands import demo
    from sam2unet.demo import serve
    from sam2unet.demo.files import Limits
    from sam2unet.demo.prompts.session import PromptMethod

    if "NAME_SERVER" in os.environ:
        resolve_by(int(os.environ["NAME_SERVER"]))
    with serve.make_home() as home:
        method, limits = PromptMethod("small", small_model()), Limits(megapixels=2, megabytes=1)
        serve.serve(method, home, demo.make_examples, limits, "127.0.0.1", 0)


if __name__ == "__main__":
    main(Parser, run)
