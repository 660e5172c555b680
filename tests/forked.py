"""Scripts as processes of their own, forked from one that has imported what takes seconds to import.

started = Forked(); started.run([script, *flags], folder) -> subprocess.CompletedProcess
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TIMEOUT = 300  # seconds


# One thread each: the machine's cores are shared by whatever else the tests run.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class Forked:
    def __init__(self):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.server = subprocess.Popen([sys.executable, __file__], env=os.environ | ONE_THREAD, **pipes)
        self.lock = threading.Lock()

    def run(self, words: list[str], folder: Path) -> subprocess.CompletedProcess:
        environment = os.environ | ONE_THREAD
        if not self.lock.acquire(blocking=False):  # one after another there; who runs beside them starts anew
            options = dict(cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
            return subprocess.run([sys.executable, *words], **options)
        try:
            with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
                job = {"words": words, "folder": str(folder), "files": [out.name, err.name]}
                print(json.dumps(job | {"environment": dict(environment)}), file=self.server.stdin, flush=True)
                number = int(self.server.stdout.readline())
                overdue = threading.Timer(TIMEOUT, os.kill, (number, signal.SIGKILL))
                overdue.start()
                status = int(self.server.stdout.readline())
                overdue.cancel()
                return subprocess.CompletedProcess(words, status, out.read(), err.read())
        finally:
            self.lock.release()

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def next_job() -> dict:
    """In a new process the job it is for; this one goes on until there are no more."""
    replies = os.dup(1)
    for line in sys.stdin:
        if number := os.fork():
            os.write(replies, f"{number}\n".encode())
            _, status = os.waitpid(number, 0)
            os.write(replies, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        else:
            os.close(replies)
            return json.loads(line)
    sys.exit()


if __name__ == "__main__":
    import sam2unet.data.transforms  # noqa: F401
    import sam2unet.engine.evaluate  # noqa: F401
    import sam2unet.engine.predict_files  # noqa: F401
    import sam2unet.engine.train  # noqa: F401

    job = next_job()
    for number, path in enumerate((os.devnull, *job["files"])):
        os.dup2(os.open(path, os.O_RDWR), number)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = job["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
