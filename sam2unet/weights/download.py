"""Finds weight files by path or by name. Downloads each file of a name once, completely, and with its SHA-256."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ..atomic import PART, make_folder, sha256, write_atomic
from ..errors import UserError, print_line
from .named import DRIVE, PUBLISHED, PublishedWeights, find_similar_names

ALL_BYTES_ARE_HERE = 416  # the HTTP status for a request of bytes after the end of the file


def locate_weight_files(values: Mapping[str, str | Path], source: str | None = None) -> dict[str, Path]:
    """Returns the paths of weight files by flag. `values` are paths, or names of published weights.

    The weights of a name are downloaded if the cache does not have them. A file in the current folder wins over the
    name. Raises UserError for a mistyped name, for weights of another flag, and if the download fails.

    Args:
        source: the server, one of `SOURCES`. None: Meta's server, or the hub for a file that is only there.
    """
    rows = {flag: find_weights(flag, str(value)) for flag, value in values.items()}
    for row in filter(None, rows.values()):
        if not row.path.is_file():
            find_address(row, source)  # raises its errors before the first download
    return {flag: get_weights(row, source) if row else Path(values[flag]) for flag, row in rows.items()}


def find_weights(flag: str, text: str) -> PublishedWeights | None:
    """Returns the row of a name, or None if `text` is a path. Raises UserError if it is a wrong name for the flag."""
    weights = PUBLISHED.get(text)
    if os.path.isfile(text):
        if weights:
            print_line(f"note: --{flag} {text} is the file in this folder, not the published weights of this name")
        return None
    if weights and weights.flag != flag:
        raise UserError(f"{text} is for --{weights.flag}, not for --{flag}")
    is_word = Path(text).name == text and not os.path.lexists(text)
    if not weights and is_word and (names := find_similar_names(text, flag)):
        similar = ", ".join(names)
        raise UserError(f"no such file: {text}; similar names of published weights: {similar} (--{flag} NAME)")
    return weights


def get_weights(weights: PublishedWeights, source: str | None = None) -> Path:
    """Returns the file of published weights in the cache. Downloads it if the cache does not have it.

    Waits if another process downloads the same file. An unfinished download keeps its bytes, and the next one
    continues it. Raises UserError if the file is on Google Drive, the download fails, or the SHA-256 is wrong.
    """
    path = weights.path
    if path.is_file():
        return path
    address, part = find_address(weights, source), weights.path.with_name(f".{path.name}{PART}")
    make_folder(path.parent, "SAM2UNET_CACHE")
    with lock_file(path.with_name(f".{path.name}.lock")):
        if not path.is_file():  # otherwise another process has downloaded it
            print_line(f"downloading {address} to {path}")
            transfer(address, part, path)
            check_sha256(weights, part, address)
            os.replace(part, path)
    return path


def find_address(weights: PublishedWeights, source: str | None) -> str:
    """Returns the address of the file. `SAM2UNET_WEIGHTS_SERVER` replaces its scheme and host."""
    if weights.address.startswith(DRIVE):
        raise UserError(
            f"{weights.name} is on Google Drive, which requires a confirmation in a browser: open {weights.address}, "
            f"and save the file as {weights.path}"
        )
    if source == "hub" and not weights.hub:
        raise UserError(
            f"this project knows no copy of {weights.name} on the Hugging Face hub; leave --weights_from out, or set "
            "SAM2UNET_WEIGHTS_SERVER to a mirror"
        )
    address = weights.address
    if source == "hub" or not address:
        import huggingface_hub

        repository, file = weights.hub.rsplit("/", 1)
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        address = huggingface_hub.hf_hub_url(repository, file, endpoint=endpoint)
    server = os.environ.get("SAM2UNET_WEIGHTS_SERVER", "").rstrip("/")
    if server and not server.startswith(("http://", "https://")):
        raise UserError(f"SAM2UNET_WEIGHTS_SERVER is {server}; it must start with http:// or https://")
    return server + urlsplit(address).path if server else address


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """A context that one process enters at a time. The others wait. The lock ends with the process."""
    try:
        with open(path, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if os.environ.get("LOCAL_RANK", "0") == "0":  # torchrun sets it; one line for all its processes
                    print_line(f"waiting for another process that downloads into {path.parent}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as e:
        raise UserError(
            f"cannot write into {path.parent}: {e.strerror or e}; set SAM2UNET_CACHE to another folder"
        ) from e


def transfer(address: str, part: Path, path: Path) -> None:
    """Appends the missing bytes of the file to `part`. `path` is for the error message."""
    from huggingface_hub.file_download import http_get  # takes time to import

    headers = {"Accept-Encoding": "identity"}  # a compressed transfer cannot continue
    try:
        with open(part, "ab") as file:
            http_get(address, file, resume_size=file.tell(), headers=headers, displayed_filename=path.name)
            file.flush()
            os.fsync(file.fileno())
    except Exception as e:  # several network packages raise errors without a common class
        status = getattr(getattr(e, "response", None), "status_code", None)
        if status == ALL_BYTES_ARE_HERE:
            return
        if part.is_file() and not part.stat().st_size:
            part.unlink()
        lines = str(e).strip().splitlines()
        reason = f"the server answered with status {status}" if status else lines[0] if lines else type(e).__name__
        raise UserError(
            f"cannot download {address}: {reason}. Run the command again to continue the download, or use another "
            "server (--weights_from hub or SAM2UNET_WEIGHTS_SERVER). Without a network, download the file on another "
            f"computer, and save it as {path}"
        ) from e


def check_sha256(weights: PublishedWeights, part: Path, address: str) -> None:
    """Raises UserError and removes `part` if its SHA-256 is wrong. Records the SHA-256 if it is not known."""
    digest, expected = sha256(part), weights.get_sha256()
    if not expected:
        with write_atomic(weights.record) as file:
            file.write(f"{digest}  {weights.file}\n".encode())
        print_line(
            f"note: no SHA-256 of {weights.name} is published; {weights.record} records that of this first download: "
            f"{digest}"
        )
    elif digest != expected:
        part.unlink()
        raise UserError(
            f"the file at {address} has the SHA-256 {digest}, but that of {weights.name} is {expected}; the download "
            "is removed. Run the command again, or use another server"
        )
