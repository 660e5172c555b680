"""Scripts as processes of their own, forked from one that has imported what takes seconds to import.

started = Forked(); started.run([script, *flags], folder) -> subprocess.CompletedProcess
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TIMEOUT = 300  # seconds


class Forked:
    def __init__(self):
        # One thread each: the machine's cores are shared by whatever else the tests run.
        own = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.server = subprocess.Popen([sys.executable, __file__], **own)
        self.lock = threading.Lock()

    def run(self, words: list[str], folder: Path) -> subprocess.CompletedProcess:
        with self.lock, tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            job = {
                "words": words,
                "folder": str(folder),
                "files": [out.name, err.name],
                "environment": dict(os.environ),
            }
            print(json.dumps(job | {"environment": dict(os.environ)}), file=self.server.stdin, flush=True)
            number = int(self.server.stdout.readline())
            overdue = threading.Timer(TIMEOUT, os.kill, (number, 9))
            overdue.start()
            status = int(self.server.stdout.readline())
            overdue.cancel()
            texts = out.read(), err.read()
        return subprocess.CompletedProcess(words, status, *texts)

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
    os.environ.update(job["environment"] | {"OMP_NUM_THREADS": "1"})
    sys.argv = job["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
