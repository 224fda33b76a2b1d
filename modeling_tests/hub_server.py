"""A small local server of the Hub's protocol, for tests with the real client of the Hub.

It serves models: making them, branches and pull requests, commits of small and large files (LFS: one request, or
several parts), deletions, downloads by range, private models, tokens, validation of a card's metadata, conflicts of two
commits on one parent; the files of data sets, for reading; and those of an ordinary web server. What it leaves out:
spaces, Xet storage,
git itself, redirects to a CDN, discussions,
renamed and gated models, quotas, and most of the fields of its answers.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"hf_writer": "writer", "hf_reader": "reader"}
# Bytes from which weights are a large file.
LARGE = 8_000


@dataclass
class Repository:
    """Files by commit; a file is its bytes, or the hash of a large one."""

    private: bool
    commits: dict[str, dict[str, bytes | str]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Faults of the next requests that match."""

    method: str
    path: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # Close the connection after so many bytes of an answer; of a request, before any answer.
    cut_after: int | None = None


class Hub:
    """The state of the server, which tests inspect and modify."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.url = ""
        # Files of an ordinary web server, by path.
        self.web: dict[str, bytes] = {}
        # Bytes of a part, where a large file is larger.
        self.part = 1_000_000

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The content of a repository."""
        repository = self.repositories[name]
        files = repository.commits[repository.refs.get(revision, revision)]
        return {path: self.content(value) for path, value in files.items()}

    def content(self, value: bytes | str) -> bytes:
        return self.blobs[value] if isinstance(value, str) else value

    def put(self, name: str, files: dict[str, bytes], ref: str = "main", private: bool = False) -> str:
        """Create a commit without a parent that holds these files."""
        repository = self.repositories.setdefault(name, Repository(private))
        return commit(repository, ref, dict(files))

    def asked(self, method: str, path: str) -> int:
        """The matching requests so far."""
        return sum(one == method and re.search(path, other) is not None for one, other, _ in self.requests)


def commit(repository: Repository, ref: str, files: dict[str, bytes | str]) -> str:
    # Like git's, it also depends on the parent.
    digest = hashlib.sha1(json.dumps([len(repository.commits), ref, sorted(files)]).encode()).hexdigest()
    repository.commits[digest] = files
    repository.refs[ref] = digest
    return digest


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            fault = next(
                (each for each in self.hub.faults if each.method == self.command and re.search(each.path, path)), None
            )
            if fault is not None:
                fault.times -= 1
                if not fault.times:
                    self.hub.faults.remove(fault)
            self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if fault is not None and fault.status == 0 and self.command in ("PUT", "POST"):
            self.rfile.read(fault.cut_after or 1)
            self.close()
            return
        body = self.body()
        if fault is not None and fault.status:
            self.answer(fault.status, b"busy", fault.headers)
            return
        try:
            with self.hub.lock:
                status, content, headers = self.route(path, body)
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            status, content = refusal.status, json.dumps({"error": str(refusal)}).encode()
        self.answer(status, content, headers, None if fault is None else fault.cut_after)

    def close(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut_after is None else content[:cut_after])
        if cut_after is not None:
            self.wfile.flush()
            self.close()

    # ---- requests

    def route(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        values = json.loads(body) if body and self.headers.get("Content-Type", "").startswith("application/") and (
            "ndjson" not in self.headers["Content-Type"]
        ) else {}  # fmt: skip
        if path in self.hub.web:
            return self.content(self.hub.web[path], {"ETag": f'"{hashlib.md5(self.hub.web[path]).hexdigest()}"'})
        if path == "/api/validate-yaml":
            return self.validate(values["content"])
        if path == "/api/repos/create":
            return self.create(values)
        if found := re.fullmatch(r"/lfs/(\w{64})(?:/(\d+))?", path):
            return self.store(found[1], found[2], body)
        if found := re.fullmatch(r"/lfs-join/(\w{64})", path):
            joined = b"".join(self.hub.parts[found[1], part["partNumber"]] for part in values["parts"])
            return self.store(found[1], None, joined)
        name = r"/([\w.-]+/[\w.-]+?)"
        if found := re.fullmatch(rf"{name}\.git/info/lfs/objects/batch", path):
            self.repository(found[1], writes=True)
            return self.batch(values["objects"])
        if found := re.fullmatch(rf"/api/models{name}/branch/(.+)", path):
            return self.branch(found[1], found[2], values)
        if found := re.fullmatch(rf"/api/models{name}/preupload/(.+)", path):
            return self.preupload(found[1], found[2], values["files"])
        if found := re.fullmatch(rf"/api/models{name}/commit/(.+)", path):
            return self.commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
        # Data sets lie beside the models here; their files in no folders.
        path = re.sub(r"^(/api)?/datasets/", lambda found: "/api/models/" if found[1] else "/", path)
        if found := re.fullmatch(rf"/api/models{name}/tree/([^/]+)(?:/(.*))?", path):
            return self.tree(found[1], found[2], found[3])
        if found := re.fullmatch(rf"/api/models{name}(?:/revision/(.+))?", path):
            repository = self.repository(found[1])
            sha, files = self.at(repository, found[2] or "main")
            siblings = [{"rfilename": each} for each in sorted(files)]
            return self.json(
                {"id": found[1], "sha": sha, "private": repository.private, "siblings": siblings, "tags": []}
            )
        if found := re.fullmatch(rf"{name}/resolve/([^/]+|refs/pr/\d+)/(.+)", path):
            return self.download(found[1], found[2], found[3])
        raise Refusal(404, f"no such address: {path}")

    def json(self, values: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(values).encode(), {"Content-Type": "application/json"}

    def user(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return TOKENS.get(given)

    def repository(self, name: str, writes: bool = False) -> Repository:
        user, repository = self.user(), self.hub.repositories.get(name)
        is_owner = user == name.split("/")[0]
        if repository is None or (repository.private and not is_owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if writes and not is_owner:
            raise Refusal(403 if user else 401, "Forbidden: you have no right to write here")
        return repository

    def at(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes | str]]:
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    def validate(self, content: str) -> tuple[int, bytes, dict[str, str]]:
        """Check of a card's metadata: a YAML block whose fields have the right types."""
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        data = yaml.safe_load(found[1]) if found else None
        wrong = [] if isinstance(data, dict) else ["metadata"]
        for name in ("license", "library_name", "pipeline_tag") if not wrong else ():
            wrong += [name] if not isinstance(data.get(name, ""), str) else []
        for index in data.get("model-index", []) if not wrong else []:
            for result in index["results"]:
                kinds = {"task": ("type",), "dataset": ("type", "name")}
                wrong += [part for part, keys in kinds.items() if any(not result[part].get(key) for key in keys)]
                wrong += ["metrics" for metric in result["metrics"] if not isinstance(metric["value"], int | float)]
        if wrong:
            errors = [{"message": f"{name!r} is not valid"} for name in wrong]
            return 400, json.dumps({"errors": errors, "warnings": []}).encode(), {"Content-Type": "application/json"}
        return self.json({"errors": [], "warnings": []})

    def create(self, values: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = values.get("organization") or user
        name = f"{owner}/{values['name']}"
        if name in self.hub.repositories:
            content = json.dumps({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return 409, content.encode(), {"Content-Type": "application/json"}
        if owner != user:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        repository = Repository(values.get("visibility") == "private" or bool(values.get("private")))
        commit(repository, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[name] = repository
        return self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def branch(self, name: str, branch: str, values: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        repository = self.repository(name, writes=True)
        if branch in repository.refs:
            raise Refusal(409, "Reference already exists")
        repository.refs[branch] = self.at(repository, values.get("startingPoint") or "main")[0]
        return self.json({})

    def preupload(self, name: str, revision: str, files: list[dict[str, Any]]) -> tuple[int, bytes, dict[str, str]]:
        _, there = self.at(self.repository(name, writes=True), revision)
        answer = []
        for each in files:
            is_large = each["path"].endswith(".safetensors") and each["size"] > LARGE
            value = there.get(each["path"])
            oid = value if isinstance(value, str) or value is None else git_hash(value)
            mode = "lfs" if is_large else "regular"
            answer.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.json({"files": answer})

    def batch(self, objects: list[dict[str, Any]]) -> tuple[int, bytes, dict[str, str]]:
        answer = []
        for each in objects:
            oid, size = each["oid"], each["size"]
            found: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.blobs and size <= self.hub.part:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{oid}", "header": {}}}
            elif oid not in self.hub.blobs:
                count = -(-size // self.hub.part)
                header = {str(n): f"{self.hub.url}/lfs/{oid}/{n}" for n in range(1, count + 1)}
                upload = {
                    "href": f"{self.hub.url}/lfs-join/{oid}",
                    "header": {"chunk_size": str(self.hub.part), **header},
                }
                found["actions"] = {"upload": upload}
            answer.append(found)
        return self.json({"transfer": "basic", "objects": answer})

    def store(self, oid: str, part: str | None, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if part is not None:
            self.hub.parts[oid, int(part)] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content has another hash")
        self.hub.blobs[oid] = body
        return self.json({})

    def commit(self, name: str, revision: str, lines: list[dict[str, Any]]) -> tuple[int, bytes, dict[str, str]]:
        repository = self.repository(name, writes=True)
        head, files = self.at(repository, revision)
        parent, is_pull_request = lines[0]["value"].get("parentCommit"), "create_pr=1" in self.path
        if parent not in (None, head) and not is_pull_request:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for each in lines[1:]:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refusal(400, f"{value['path']}: points to a large file that is not there")
                files[value["path"]] = value["oid"]
            elif each["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
        oid = commit(repository, f"refs/pr/{number}" if is_pull_request else revision, files)
        url = f"{self.hub.url}/{name}/discussions/{number}" if is_pull_request else None
        return self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": url})

    def tree(self, name: str, revision: str, under: str | None) -> tuple[int, bytes, dict[str, str]]:
        _, files = self.at(self.repository(name), revision)
        chosen = {path: value for path, value in files.items() if not under or path.startswith(f"{under}/")}
        if under and not chosen:
            raise Refusal(404, f"{under} does not exist", "EntryNotFound")
        rows = []
        for path, value in sorted(chosen.items()):
            content = self.hub.content(value)
            rows.append({"type": "file", "path": path, "size": len(content), "oid": git_hash(content)})
        return self.json(rows)

    def download(self, name: str, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        sha, files = self.at(self.repository(name), revision)
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        value, content = files[path], self.hub.content(files[path])
        etag = value if isinstance(value, str) else git_hash(content)
        return self.content(content, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    def content(self, content: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """A file, or the requested range of it."""
        headers = {**headers, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return 200, b"", {**headers, "Content-Length": str(len(content))}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            return 206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        return 200, content, headers


@contextmanager
def running_hub(host: str = "127.0.0.1") -> Iterator[Hub]:
    """A server on a free port of an address of this machine, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer((host, 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
