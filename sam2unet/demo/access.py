"""Lets the requests of the pages reach gradio. All others are refused, each with one line in the terminal."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError, warn
from .files import refuse_elsewhere

API = "/gradio_api"
READ = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}
READ |= {f"{API}/{name}" for name in ("info", "queue/data", "startup-events", "theme.css", "upload_progress")}
READ_BELOW = ("/assets/", "/static/", f"{API}/heartbeat/")
FILE, JOIN, UPLOAD = f"{API}/file=", f"{API}/queue/join", f"{API}/upload"
QUERY = ("session_hash", "upload_id", "v")  # without `deep_link`, which makes gradio read a page from a file
FIELDS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")  # fields of a request that joins the queue
LONGEST_BODY = 1_000_000  # bytes of such a request; it does not contain the files, which are uploaded before it
HEADERS = {
    # gradio uses inline scripts, and compiles event handlers in the browser.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class RefusedRequest(Exception):
    def __init__(self, reason: str, status: int = 403):
        super().__init__(reason)
        self.status = status


class AccessControl:
    """ASGI middleware that refuses all requests that the pages do not send.

    gradio alone offers every visitor routes that run functions outside the queue, fetch addresses and write files. Here
    no file outside the folder `uploads` can be read, and only the functions with these numbers can run.
    """

    def __init__(self, app: ASGIApp, uploads: Path, functions: Collection[int]):
        self.app, self.uploads, self.functions = app, uploads, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def send_secured(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            self.check_origin(scope)
            self.check_route(scope)
            if scope["path"] == JOIN:
                receive = self.check_body(await read_body(receive), read_own_host(scope), receive)
            fields = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
            query = urlencode([(key, value) for key, value in fields if key in QUERY]).encode()
            await self.app({**scope, "query_string": query}, receive, send_secured)
        except RefusedRequest as e:
            report(f"refused {name_request(scope)}: {e}")
            await PlainTextResponse("refused", e.status)(scope, receive, send_secured)
        except Exception as e:
            report(f"{name_request(scope)} failed: {type(e).__name__}: {e}")
            if started:
                await send({"type": "http.response.body", "body": b""})
            else:
                await PlainTextResponse("failed", 500)(scope, receive, send_secured)

    def check_origin(self, scope: Scope) -> None:
        """Refuses requests from pages of other sites. Browsers add the header `origin` to them and to POST requests."""
        for origin in Headers(scope=scope).getlist("origin"):
            if read_host(origin) != read_own_host(scope):
                raise RefusedRequest("it comes from a page of another origin")

    def check_route(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        if method == "POST" and path in (JOIN, UPLOAD):
            return
        if method not in ("GET", "HEAD"):
            raise RefusedRequest("the page does not send such requests")
        if path.startswith(FILE):
            return self.check_file(path.removeprefix(FILE))
        if path not in READ and not path.startswith(READ_BELOW):
            raise RefusedRequest("the page has no such address")

    def check_file(self, path: object) -> None:
        """Refuses every path outside the uploads. Web addresses are not absolute paths, so gradio never fetches one."""
        try:
            if not (isinstance(path, str) and Path(path).is_absolute()):
                raise UserError("the page reads only files that were dropped on it")
            refuse_elsewhere(Path(path), [self.uploads])
        except (UserError, OSError, ValueError) as e:  # OSError, ValueError: the path is impossible or too long
            raise RefusedRequest(str(e)) from e

    def check_body(self, body: bytes, host: str, receive: Receive) -> Receive:
        """Checks a request that joins the queue. Returns a `receive` that gives gradio only the checked fields."""
        try:
            content = json.loads(body, parse_constant=int)  # parse_constant: int("NaN") raises ValueError
        except (ValueError, RecursionError) as e:
            raise RefusedRequest("its body is not JSON", 400) from e
        if not (isinstance(content, dict) and isinstance(content.get("data"), list)):
            raise RefusedRequest("its body has no list of data", 400)
        if not (type(content.get("fn_index")) is int and content["fn_index"] in self.functions):
            raise RefusedRequest("there is no such function for visitors", 400)
        for entry in find_dicts([content["data"], content.get("event_data")]):
            if entry.get("path") is not None:
                self.check_file(entry["path"])
            if entry.get("url") is not None and not (isinstance(entry["url"], str) and read_host(entry["url"]) == host):
                raise RefusedRequest("the page reads only files that were dropped on it")
        checked = json.dumps({key: content[key] for key in FIELDS if key in content}).encode()
        messages = [{"type": "http.request", "body": checked}]

        async def receive_checked() -> Message:
            return messages.pop() if messages else await receive()

        return receive_checked


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST_BODY:
            raise RefusedRequest(f"its body has more than {LONGEST_BODY} bytes", 413)
    return body


def find_dicts(content: object) -> Iterator[dict]:
    """Yields all dicts inside nested dicts and lists. Does not recurse, so that no depth exceeds the stack."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def read_own_host(scope: Scope) -> str:
    """Returns name and port of this server, as the visitor addressed it."""
    return Headers(scope=scope).get("host", "").lower()


def read_host(address: str) -> str | None:
    """Returns name and port of an address, in the form of the header `Host`."""
    try:
        return urlsplit(address).netloc.lower() or None
    except ValueError:
        return None


def name_request(scope: Scope) -> str:
    return f"the request {scope['method']} {scope['path']}"


def report(text: str) -> None:
    """Prints one line in the terminal, of limited length, whatever a visitor sent."""
    warn(" ".join(text[:300].split()))
