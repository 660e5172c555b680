"""A stand-in for the servers of published weights, on 127.0.0.1."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn(ThreadingHTTPServer):
    """Serves `files`, bytes by path, and notes each request that it answers as (path, first byte)."""

    daemon_threads = True
    cut = 0  # for the next `cut` answers, only `limit` bytes are sent, then the connection ends
    limit = 0
    stall = False  # wait for `go` after `limit` bytes
    knows_range = True
    answers: int | None = None  # with so many answers it has no more files

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.requests = {}, {}, []
        self.go = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.go.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_GET(self):
        server = self.server
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        content = server.files.get(self.path)
        if content is None or len(server.requests) == server.answers:
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.knows_range else None
        start = int(match[1]) if match else 0
        server.requests.append((self.path, int((self.headers.get("Range") or "bytes=0-")[6:-1])))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.send(content[start:])

    def send(self, content: bytes):
        server = self.server
        if server.stall:
            self.wfile.write(content[: server.limit])
            server.go.wait()
            content = content[server.limit :]
        if server.cut:
            server.cut -= 1
            content = content[: server.limit]
        try:
            self.wfile.write(content)
        except OSError:  # the other side has gone
            pass
