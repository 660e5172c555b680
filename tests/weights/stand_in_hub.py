"""A stand-in for the API of the Hugging Face hub, on 127.0.0.1: repositories, commits, large files, downloads."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN, READ_ONLY = "hf_writes", "hf_reads"


class Repository:
    def __init__(self, private: bool):
        self.private, self.files, self.commits = private, {}, []  # files: name -> content

    @property
    def sha(self) -> str:
        return hashlib.sha1("".join(self.commits).encode()).hexdigest()


class StandInHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.large, self.requests = {}, {}, []  # large: SHA-256 -> content
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def handle_request(self):
        self.server.requests.append(f"{self.command} {self.path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, self.path.split("?")[0])
            if match and self.command in method:
                return answer(self, *match.groups())
        return self.reply(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def refuse(self, status: int, message: str, **headers: str):
        """As the hub does, which says why in a header."""
        self.reply(status, {"error": message}, X_Error_Message=message, **headers)

    def reply(self, status: int, content: object = None, **headers: str):
        content = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("X-Request-Id", "Root=1-2")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def find(self, name: str, to_write: bool = False) -> Repository | None:
        """The repository; else None, and the hub's refusal is sent."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and self.token not in (TOKEN, READ_ONLY)):
            return self.refuse(404 if self.token else 401, "Repository not found", X_Error_Code="RepoNotFound")
        if to_write and self.token != TOKEN:
            return self.refuse(403, "You have read access but not the required permissions")
        return repository

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.server.address}/{name}"
        if self.token != TOKEN:
            return self.refuse(403, "You don't have the rights to create a model")
        if name in self.server.repositories:
            return self.reply(409, {"error": "You already created this model repo", "url": url})
        self.server.repositories[name] = Repository(wanted.get("visibility") == "private" or wanted.get("private"))
        return self.reply(200, {"url": url})

    def choose_modes(self, name: str):
        if self.find(name, to_write=True):
            files = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            entries = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self.reply(200, {"files": entries})

    def offer_upload(self, name: str):
        if self.find(name, to_write=True):
            entries = json.loads(self.body)["objects"]
            for entry in entries:
                if entry["oid"] not in self.server.large:
                    entry["actions"] = {"upload": {"href": f"{self.server.address}/large/{entry['oid']}"}}
            self.reply(200, {"objects": entries, "transfer": "basic"})

    def store(self, digest: str):
        right = hashlib.sha256(self.body).hexdigest() == digest
        self.server.large |= {digest: self.body} if right else {}
        self.reply(200 if right else 400)

    def commit(self, name: str):
        if repository := self.find(name, to_write=True):
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repository.files[value["path"]] = self.server.large[value["oid"]]
            repository.commits.append(self.body.decode())
            url = f"{self.server.address}/{name}/commit/{repository.sha}"
            self.reply(200, {"commitUrl": url, "commitOid": repository.sha})

    def describe(self, name: str, revision: str):
        if repository := self.find(name):
            if revision not in ("main", repository.sha):
                return self.refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": path} for path in repository.files]
            self.reply(200, {"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings})

    def list_files(self, name: str):
        if repository := self.find(name):
            entries = []
            for path, content in repository.files.items():
                entries.append({"type": "file", "path": path, "size": len(content)})
                entries[-1]["oid"] = hashlib.sha1(content).hexdigest()
            self.reply(200, entries)

    def send(self, name: str, path: str):
        if repository := self.find(name):
            content = repository.files[path]
            self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=repository.sha)


NAME = "([^/]+/[^/]+)"
ROUTES = [
    ("POST", "/api/validate-yaml", lambda handler: handler.reply(200)),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", f"/api/models/{NAME}/preupload/main", Handler.choose_modes),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.offer_upload),
    ("PUT", "/large/(.+)", Handler.store),
    ("POST", f"/api/models/{NAME}/commit/main", Handler.commit),
    ("GET", f"/api/models/{NAME}/revision/(.+)", Handler.describe),
    ("GET", f"/api/models/{NAME}/tree/.+", Handler.list_files),
    ("GET HEAD", f"/{NAME}/resolve/[^/]+/(.+)", Handler.send),
]
