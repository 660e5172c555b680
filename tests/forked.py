"""Scripts as processes of their own, forked from a server that has imported what takes seconds to import.

started = Forked(address).start([script, *flags], folder); started.finish() -> subprocess.CompletedProcess
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds
# One thread each: the machine's cores are shared by whatever else the tests run.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class Started:
    """A script that runs, in a session of its own: `os.killpg(started.pid, signal.SIGKILL)` ends its workers too."""

    def __init__(self, words: list[str], pid: int, files: list):
        self.words, self.pid, self.files = words, pid, files

    def poll(self) -> int | None:
        """Its exit status as of subprocess.Popen; None while it runs."""
        self.files[2].seek(0)
        text = self.files[2].read()
        return int(text) if text.endswith("\n") else None

    def finish(self) -> subprocess.CompletedProcess:
        deadline = time.monotonic() + TIMEOUT
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        out, err = (file.read() for file in self.files[:2])
        for file in self.files:
            file.close()
        return subprocess.CompletedProcess(self.words, status, out, err)


def serve(address: Path) -> None:
    """Starts the server for all test processes, and returns when it is ready. It ends after the process above them."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    words = [sys.executable, "-m", "tests.forked", str(address), str(owner)]
    subprocess.run(words, cwd=ROOT, env=os.environ | ONE_THREAD, stdin=subprocess.DEVNULL, check=True)


class Forked:
    def __init__(self, address: Path):
        self.address = str(address)

    def start(self, words: list[str], folder: Path, variables: dict[str, str]) -> Started:
        files = [tempfile.NamedTemporaryFile("r") for _ in range(3)]
        job = {"words": words, "folder": str(folder), "files": [file.name for file in files]}
        job["environment"] = os.environ | ONE_THREAD | variables
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.address)
            with server.makefile("rw") as lines:
                print(json.dumps(job), file=lines, flush=True)
                return Started(words, int(lines.readline()), files)


def next_job(address: str, owner: int) -> dict:
    """Returns the job in a new process for it. This process goes on in the background, as long as its owner."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        listener.settimeout(1)
        if os.fork():
            os._exit(0)  # it is ready
        while True:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                end_without(owner)
                continue
            with client:
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return with_someone_waiting(client)


def end_without(owner: int) -> None:
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        sys.exit()


def with_someone_waiting(client: socket.socket) -> dict:
    """Returns the job in a new process. This process writes its exit status when that has ended."""
    with client.makefile("rw") as lines:
        job = json.loads(lines.readline())
        if number := os.fork():
            print(number, file=lines, flush=True)
    if number:
        _, status = os.waitpid(number, 0)
        Path(job["files"][2]).write_text(f"{os.waitstatus_to_exitcode(status)}\n")
        os._exit(0)
    return job


if __name__ == "__main__":
    import cv2
    import torch._dynamo  # noqa: F401, which the first optimizer imports
    from PIL import Image

    import sam2unet.masks.files.predict_folder  # noqa: F401
    import sam2unet.masks.transforms  # noqa: F401
    import sam2unet.training.run  # noqa: F401
    from sam2unet.commands import eval, test, train  # noqa: F401
    from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job
    from tests.networks import add_sizes

    add_sizes()
    cv2.setNumThreads(1)  # a process must not be forked while OpenCV's threads run
    with tempfile.TemporaryDirectory() as folder:  # numba imports 200 modules when it first runs
        pair = Path(folder, "pair.png")
        Image.new("L", (8, 8)).save(pair)
        score_job(ScoreJob(pair, pair, ScoreOptions()))
    os.fsync = lambda number: None  # as in conftest.py
    gc.collect()
    gc.freeze()  # the collector of a script does not look at what was imported before
    job = next_job(sys.argv[1], int(sys.argv[2]))
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and theirs, ignore it
    for number, path in enumerate((os.devnull, *job["files"][:2])):
        os.dup2(os.open(path, os.O_RDWR), number)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    tempfile.tempdir = None  # the folder can be another one in this environment
    sys.argv = job["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        status = ended.code
    # As at the end of any process, but for taking apart all that was imported, which takes a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
