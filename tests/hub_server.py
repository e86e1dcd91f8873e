"""A small Hub over loopback, for tests that run the real client: repositories, commits, LFS, revisions, users, faults.

Two origins, as on the real one: the Hub itself, and the one that stores large files, which must never see a token.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = 100_000
"""Files of at least so many bytes, and all weights, are stored as large files."""


@dataclass(frozen=True)
class Blob:
    """Content of one file, and the record that the Hub keeps of it."""

    data: bytes
    large: bool

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def facts(self) -> dict[str, Any]:
        lfs = {"sha256": self.sha256, "oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return {"size": len(self.data), "blobId": self.git, "oid": self.git, **({"lfs": lfs} if self.large else {})}


@dataclass
class Repo:
    """Commits by id, and what the branches and tags point to."""

    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], branch: str = "main") -> str:
        seed = json.dumps([len(self.commits), branch, sorted((n, b.sha256) for n, b in files.items())])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[oid], self.branches[branch] = dict(files), oid
        return oid

    def find(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong, on requests whose ``METHOD path`` matches, so many times (for ever if None).

    Kinds: status (value, or value and headers), html, answer (value is sent as JSON), hang (value: seconds), slow
    (value: bytes at a time, and seconds between), drop (after value bytes), reset (after value bytes), cut (value bytes
    are left out), corrupt, gzip (packed, which nobody asked for), loop (sent on to itself), lost (done, but not
    answered), call (value is called first).
    """

    kind: str
    where: str
    value: Any = None
    times: int | None = 1


class HubServer:
    """Context manager: a Hub on ``url`` whose state tests may set and read."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, tuple[str, str]] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, bool]] = []
        self.ranges: list[str | None] = []
        self.began: float | None = None
        self.lock = threading.RLock()
        self.closing = threading.Event()

    def __enter__(self) -> HubServer:
        self.servers = []
        for content in (False, True):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self, "content": content}))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self.servers.append(server)
        self.url, self.content_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)
        return self

    def __exit__(self, *unused: object) -> None:
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def user(self, name: str, role: str = "write") -> str:
        """Add a user, and return the token."""
        token = f"hf_{name}_{role}_secret"
        self.users[token] = (name, role)
        return token

    def add(self, repo_id: str, files: dict[str, bytes], branch: str = "main", **facts: Any) -> str:
        """Put files into a repository, and return the commit."""
        repo = self.repos.setdefault(repo_id, Repo(**facts))
        blobs = {n: Blob(d, is_large(n, len(d))) for n, d in files.items()}
        self.stored.update({b.sha256: b.data for b in blobs.values() if b.large})
        return repo.commit(blobs, branch)

    def fault(self, kind: str, where: str, value: Any = None, times: int | None = 1) -> None:
        self.faults.append(Fault(kind, where, value, times))

    def take(self, request: str, *kinds: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.times != 0 and re.search(fault.where, request):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def count(self, where: str = "") -> int:
        """Return how many requests matched so far."""
        return sum(re.search(where, f"{method} {path}") is not None for method, path, _ in self.log)


def is_large(name: str, size: int) -> bool:
    return size >= LARGE or name.endswith((".safetensors", ".bin"))


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """One request: find the fault, the user, the route."""

    hub: HubServer
    content: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused: object) -> None: ...

    def handle_any(self) -> None:
        request = f"{self.command} {self.path}"
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self._chunks() if chunked else self.rfile.read(length)
        self.hub.began = self.hub.began or time.monotonic()
        self.hub.log.append((self.command, self.path, "Authorization" in self.headers))
        if self.hub.closing.is_set():  # a connection that was kept open
            self.close_connection = True
            return None
        if fault := self.hub.take(request, "call"):
            fault.value()
        if fault := self.hub.take(request, "hang"):
            self.hub.closing.wait(fault.value or 60)
            self.close_connection = True
            return None
        if fault := self.hub.take(request, "status"):
            status, headers = fault.value if isinstance(fault.value, tuple) else (fault.value, {})
            return self.send(b'{"error": "switched fault"}', {"Content-Type": "application/json", **headers}, status)
        if fault := self.hub.take(request, "answer"):
            return self.send(json.dumps(fault.value).encode(), {"Content-Type": "application/json"})
        if self.hub.take(request, "loop"):
            return self.send(b"", {"Location": self.path}, 302)
        if self.hub.take(request, "html"):
            return self.send(b"<html>please log in</html>", {"Content-Type": "text/html"})
        try:
            with self.hub.lock:
                reply = self.route_content() if self.content else self.route()
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
            reply = (json.dumps({"error": str(refusal)}).encode(), headers, refusal.status)
        if self.hub.take(request, "lost"):
            return self.cut_off()
        return self.send(*reply)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # -- answers ------------------------------------------------------------------------------------------------------

    def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        request = f"{self.command} {self.path}"
        data = body if self.command != "HEAD" else b""
        kinds = ("drop", "reset", "cut", "corrupt", "slow", "gzip")
        fault = self.hub.take(request, *kinds) if data and status in (200, 206) else None
        if fault and fault.kind == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        if fault and fault.kind == "cut":
            data = body = data[: -fault.value]
        if fault and fault.kind == "gzip":
            data, headers = gzip.compress(fault.value), {**headers, "Content-Encoding": "gzip"}
            body = data
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if fault and fault.kind in ("drop", "reset"):
                self.wfile.write(data[: fault.value])
                self.wfile.flush()
                return self.cut_off(reset=fault.kind == "reset")
            if fault and fault.kind == "slow":
                return self.trickle(data, *fault.value)
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def trickle(self, data: bytes, size: int, pause: float) -> None:
        for start in range(0, len(data), size):
            self.wfile.write(data[start : start + size])
            self.wfile.flush()
            if self.hub.closing.wait(pause):
                return

    def cut_off(self, reset: bool = False) -> None:
        time.sleep(0.02)  # what was sent arrives first
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close() if reset else self.connection.shutdown(socket.SHUT_RDWR)

    # -- the origin of large files ------------------------------------------------------------------------------------

    def route_content(self) -> tuple[bytes, dict[str, str], int]:
        oid = self.path.rpartition("/")[2].partition("?")[0]
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refusal(400, "wrong content")
            self.hub.stored[oid] = self.body
            return b"", {}, 200
        self.hub.ranges.append(self.headers.get("Range"))
        return self._ranged(self.hub.stored[oid])

    def _ranged(self, data: bytes) -> tuple[bytes, dict[str, str], int]:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None:
            return data, {}, 200
        first = int(match[1])
        return data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}, 206

    # -- the Hub ------------------------------------------------------------------------------------------------------

    def route(self) -> tuple[bytes, dict[str, str], int]:
        parts = urlsplit(self.path)
        path, self.query = parts.path, parse_qs(parts.query)
        self.user = self._user()
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match is not None and (self.command == method or (self.command, method) == ("HEAD", "GET")):
                reply = getattr(self, name)(*(unquote(g) for g in match.groups()))
                return reply if isinstance(reply, tuple) else (json.dumps(reply).encode(), {}, 200)
        raise Refusal(501, f"the double has no {self.command} {path}")

    def _user(self) -> tuple[str, str] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _repo(self, repo_id: str) -> Repo:
        repo, namespace = self.hub.repos.get(repo_id), repo_id.partition("/")[0]
        if repo is None or (repo.private and (self.user is None or self.user[0] != namespace)):
            raise Refusal(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        if repo.gated and (self.user is None or self.user[0] not in {namespace, *repo.granted}):
            raise Refusal(401 if self.user is None else 403, "Access to this model is restricted", "GatedRepo")
        return repo

    def _at(self, repo_id: str, revision: str) -> tuple[Repo, str]:
        repo = self._repo(repo_id)
        commit = repo.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit

    def _writable(self, repo_id: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if self.user != (repo_id.partition("/")[0], "write"):
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")

    def whoami(self) -> Any:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return {"name": self.user[0], "type": "user"}

    def create(self) -> Any:
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or (self.user or ('?',))[0]}/{asked['name']}"
        self._writable(repo_id)
        if repo_id in self.hub.repos:
            taken = {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            return json.dumps(taken).encode(), {}, 409
        self.hub.add(repo_id, {".gitattributes": b"*.png lfs\n"}, private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.url}/{repo_id}"}

    def validate(self) -> Any:
        text = json.loads(self.body)["content"]
        try:
            yaml.safe_load(text.split("---")[1])
        except (yaml.YAMLError, IndexError) as error:
            return json.dumps({"errors": [{"message": str(error)}]}).encode(), {}, 400
        return {"errors": [], "warnings": []}

    def info(self, repo_id: str, revision: str = "main") -> Any:
        repo, commit = self._at(repo_id, revision)
        siblings = [
            {"rfilename": n, **(b.facts() if "blobs" in self.query else {})} for n, b in repo.commits[commit].items()
        ]
        return {"id": repo_id, "sha": commit, "private": repo.private, "gated": repo.gated, "siblings": siblings}

    def models(self) -> Any:
        author, wanted = self.query["author"][0], self.query.get("filter", [])
        found = []
        for repo_id, repo in self.hub.repos.items():
            mine = self.user is not None and self.user[0] == author
            if not repo_id.startswith(f"{author}/") or (repo.private and not mine):
                continue
            text = repo.commits[repo.branches["main"]].get("README.md", Blob(b"", False)).data.decode()
            front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
            if all(tag in front.get("tags", []) for tag in wanted):
                found.append({"id": repo_id, "private": repo.private, "tags": front.get("tags", [])})
        return found

    def refs(self, repo_id: str) -> Any:
        repo = self._repo(repo_id)
        pairs = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        listed = {
            k: [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in refs.items()]
            for k, (kind, refs) in pairs.items()
        }
        return {**listed, "converts": []}

    def tree(self, repo_id: str, revision: str) -> Any:
        repo, commit = self._at(repo_id, revision)
        return [{"type": "file", "path": n, **b.facts()} for n, b in repo.commits[commit].items()]

    def paths(self, repo_id: str, revision: str) -> Any:
        asked = parse_qs(self.body.decode())["paths"]
        return [f for f in self.tree(repo_id, revision) if f["path"] in asked]

    def preupload(self, repo_id: str, revision: str) -> Any:
        self._writable(repo_id)
        repo, commit = self._at(repo_id, revision)
        files = []
        for asked in json.loads(self.body)["files"]:
            name, old = asked["path"], repo.commits[commit].get(asked["path"])
            oid = (old.sha256 if old.large else old.git) if old else None
            mode = "lfs" if is_large(name, asked["size"]) else "regular"
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def batch(self, repo_id: str) -> Any:
        self._writable(repo_id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.content_url}/lfs/{asked['oid']}?signature=1"}}
            objects.append({**asked, **({} if asked["oid"] in self.hub.stored else {"actions": upload})})
        return {"transfer": "basic", "objects": objects}

    def commit(self, repo_id: str, revision: str) -> Any:
        self._writable(repo_id)
        repo, head = self._at(repo_id, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head])
        for line in lines[1:]:
            name = line["value"]["path"]
            if line["key"] == "file":
                files[name] = Blob(base64.b64decode(line["value"]["content"]), False)
            elif line["key"] == "lfsFile":
                files[name] = Blob(self.hub.stored[line["value"]["oid"]], True)
            elif files.pop(name, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repo.commit(files, revision)
        return {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}

    def branch(self, repo_id: str, name: str) -> Any:
        self._writable(repo_id)
        repo = self._repo(repo_id)
        if name in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[name] = repo.branches["main"]
        return {}

    def tag(self, repo_id: str, revision: str) -> Any:
        self._writable(repo_id)
        repo, commit = self._at(repo_id, revision)
        name = json.loads(self.body)["tag"]
        if name in repo.tags:
            raise Refusal(409, "Tag reference exists already")
        repo.tags[name] = commit
        return {}

    def file(self, repo_id: str, revision: str, name: str) -> Any:
        repo, commit = self._at(repo_id, revision)
        blob = repo.commits[commit].get(name)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        facts = {
            "X-Repo-Commit": commit,
            "ETag": f'"{blob.sha256 if blob.large else blob.git}"',
            "Accept-Ranges": "bytes",
        }
        if not blob.large:
            data, extra, status = self._ranged(blob.data)
            return data, {**facts, **extra}, status
        linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        return b"", {**facts, **linked, "Location": f"{self.hub.content_url}/lfs/{blob.sha256}"}, 302


_ID = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, str, str]] = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("GET", "/api/models", "models"),
    ("GET", f"/api/models/{_ID}", "info"),
    ("GET", f"/api/models/{_ID}/revision/([^/]+)", "info"),
    ("GET", f"/api/models/{_ID}/refs", "refs"),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)", "tree"),
    ("POST", f"/api/models/{_ID}/paths-info/([^/]+)", "paths"),
    ("POST", f"/api/models/{_ID}/preupload/([^/]+)", "preupload"),
    ("POST", f"/api/models/{_ID}/commit/([^/]+)", "commit"),
    ("POST", f"/api/models/{_ID}/branch/([^/]+)", "branch"),
    ("POST", f"/api/models/{_ID}/tag/([^/]+)", "tag"),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", "batch"),
    ("GET", f"/{_ID}/resolve/([^/]+)/(.+)", "file"),
]
