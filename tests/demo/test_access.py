"""Which requests reach gradio, and what the terminal shows about the others. No server and no browser."""

import asyncio
import json
from urllib.parse import unquote

import pytest

pytest.importorskip("starlette", reason="gradio is not installed: pip install -e .[demo]")

from sam2unet.demo.access import AccessControl

HOST = "127.0.0.1:7860"


@pytest.fixture
def ask(tmp_path):
    """`ask(method, path, body, **headers)`: the answer's status and headers, and the body that reached gradio."""

    def call(method: str, path: str, body: bytes = b"", app=None, **headers: str):
        reached, sent = [], []

        async def gradio(scope, receive, send):
            reached.append((scope["query_string"], (await receive())["body"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        address, _, query = path.partition("?")
        names = {"host": HOST} | headers
        scope = {"type": "http", "method": method, "path": unquote(address), "query_string": query.encode()}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in names.items()]
        asyncio.run(AccessControl(app or gradio, tmp_path / "uploads", [0, 2])(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), reached[0] if reached else None

    (tmp_path / "uploads").mkdir()
    return call


@pytest.mark.parametrize(
    "path",
    [
        "/login",
        "/monitoring",
        "/gradio_api/component_server",
        "/gradio_api/run/on_image",
        "/gradio_api/api/on_image",
        "/gradio_api/call/on_image",
        "/gradio_api/call/v2/on_image",
        "/gradio_api/proxy=https://a.hf.space",
        "/gradio_api/stream/a",
        "/gradio_api/process_recording",
        "/gradio_api/deep_link",
        "/gradio_api/dev/reload",
        "/gradio_api/file=https://example.com/a.png",
        "/gradio_api/file=https%3A%2F%2Fexample.com",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=uploads/a.png",
        "/gradio_api/file=%00",
        "/gradio_api/file=/" + 5000 * "a",
        "/gradio_api/queue/join/x",
    ],
)
def test_what_the_page_does_not_send_is_refused_in_one_line(ask, capsys, path):
    for method in ("GET", "POST", "PUT"):
        status, _, reached = ask(method, path, b"{}")
        assert status == 403 and reached is None
        line = capsys.readouterr().err
        assert line.startswith(f"warning: refused the request {method} /") and line.count("\n") == 1


def test_what_the_page_sends_is_let_through_with_headers_and_without_other_queries(ask, tmp_path):
    names = ["/", "/config", "/theme.css?v=1", "/assets/a.js", "/gradio_api/queue/data?session_hash=a"]
    for path in [*names, f"/gradio_api/file={tmp_path}/uploads/0/a.png"]:
        status, headers, reached = ask("GET", f"{path}{'&' if '?' in path else '?'}deep_link=..%2Fa&deep%5flink=b")
        assert status == 200 and b"deep" not in reached[0]
        assert "frame-ancestors 'none'" in headers[b"content-security-policy"].decode()
        assert headers[b"x-frame-options"] == b"DENY"
    assert ask("GET", "/gradio_api/queue/data?session_hash=a")[2][0] == b"session_hash=a"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "http://localhost:7860", "null", ""])
def test_requests_of_pages_elsewhere_are_refused(ask, capsys, origin):
    for method, path in (("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("GET", "/config")):
        assert ask(method, path, origin=origin)[0] == 403
        assert "another origin" in capsys.readouterr().err
    assert ask("POST", "/gradio_api/upload", origin=f"http://{HOST}")[0] == 200
    assert ask("POST", "/gradio_api/upload", origin="https://demo.example", host="Demo.example")[0] == 200


def join(file: dict, **fields: object) -> bytes:
    data = [[file | {"meta": {"_type": "gradio.FileData"}}], 0.5]
    return json.dumps({"data": data, "fn_index": 0, "session_hash": "a"} | fields).encode()


def test_only_uploaded_files_can_be_named(ask, tmp_path):
    own = {"path": f"{tmp_path}/uploads/0/a.png"}
    for file in (own, own | {"url": None}, own | {"url": f"http://{HOST}/gradio_api/file=a.png"}):
        status, _, reached = ask("POST", "/gradio_api/queue/join", join(file, event_id="x", batched=True))
        assert status == 200 and json.loads(reached[1]) == json.loads(join(file))
    for path in (
        "http://a/x",
        "HTTPS://a/x",
        " http://a",
        "//a/x",
        "ftp://a",
        "/etc/passwd",
        f"{tmp_path}/uploads/../a",
    ):
        for file in ({"path": path}, own | {"url": path}, own | {"path": [path]}, own | {"more": {"path": path}}):
            assert ask("POST", "/gradio_api/queue/join", join(file))[::2] == (403, None)
            assert ask("POST", "/gradio_api/queue/join", join(own, event_data={"value": [file]}))[0] == 403
    twice = join(own).replace(b'"path"', b'"path": "http://a", "path"')
    assert b"http://a" not in ask("POST", "/gradio_api/queue/join", twice)[2][1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"data": [NaN], "fn_index": 0}', "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[]", "no list of data"),
        (b'{"data": 1}', "no list of data"),
        (b'{"data": []}', "no such function"),
        (b'{"data": [], "fn_index": 1}', "no such function"),
        (b'{"data": [], "fn_index": true}', "no such function"),
        (b" " * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_a_body_that_the_page_does_not_send_is_refused_in_one_line(ask, capsys, body, reason):
    status, _, reached = ask("POST", "/gradio_api/queue/join", body)
    assert status in (400, 413) and reached is None
    line = capsys.readouterr().err
    assert reason in line and line.count("\n") == 1


def test_a_failure_inside_is_one_line_whatever_it_says(ask, capsys):
    async def failing(scope, receive, send):
        raise KeyError("a\nerror: all is fine\x1b[2J")

    assert ask("GET", "/", app=failing)[0] == 500
    line = capsys.readouterr().err
    assert line.startswith("warning: the request GET / failed: KeyError") and "\x1b" not in line
    assert line.count("\n") == 1


def test_no_websocket_is_opened():
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(AccessControl(None, None, [])({"type": "websocket"}, None, send))
    assert sent == ["websocket.close"]
