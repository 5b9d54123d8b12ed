"""A local stand-in for ModelScope and Hugging Face, as far as downloads go.

It answers as the hubs are documented and have been seen to do, unhelpful parts
included: large files are behind a redirect to another host, ModelScope ignores
ranges of small files, says what is wrong with a code in a 404, fails with a 200,
and answers a range with 200. Each hub's own command line downloads from it, too.
"""

import functools
import hashlib
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

REPOSITORY = "owner/model"
NO_REVISION, PRIVATE, NO_REPOSITORY, OVERLOAD = 10990101004, 10010200001, 10010205001, 1461  # ModelScope's codes


@dataclass
class Commit:
    """The files of the repository at one commit, and for each the commit that changed it last."""

    sha: str
    date: int
    files: dict[str, bytes]
    changed_by: dict[str, "Commit"]


@dataclass
class Transfer:
    """One request for a file: the byte it starts at, how many were sent, and when the last."""

    name: str
    start: int
    commit: str
    sent: int = 0
    ended: float = 0.0  # of time.monotonic


@dataclass
class Refusal:
    """An answer instead of the one that was asked for: a status, headers, and a JSON value."""

    status: int
    headers: dict = field(default_factory=dict)
    value: object = field(default_factory=lambda: {"error": "not now"})


OVERLOADED = Refusal(404, {}, {"Code": OVERLOAD, "Message": "Error 1461", "Success": False})
FAILED = Refusal(200, {}, {"Code": 10010000001, "Message": "internal error", "Success": False, "Data": None})


@dataclass
class StandinHub:
    """One repository on both hubs. The fields after `files` are what tests turn."""

    files: dict[str, bytes]
    status: int | None = None  # the answer to all questions about the repository
    gated: int | None = None  # the answer to requests for its files
    private: bool = False  # only who has `token` sees it
    token: str = "hf_secret"
    moved_to: str = ""  # where a mirror sends all questions with 308
    page: bytes | None = None  # what a login page answers in the hub's place
    refusals: list[Refusal] = field(default_factory=list)  # the next answers to questions
    file_refusals: list[Refusal] = field(default_factory=list)  # the next answers to requests for files
    cuts: int = 0  # how many transfers are still to be cut at `cut_at`
    resets: bool = False  # whether they are cut by a reset and not by an early end
    cut_at: int = 0  # bytes of a transfer
    weather: Callable[[], int | Refusal | None] | None = (
        None  # for each request for a file: where it is cut, or what it gets
    )
    stall_at: int | None = None  # transfers hang at this byte of a file until `release`
    away_until: float = 0.0  # of time.monotonic: connections are closed without an answer
    latency: float = 0.0  # seconds before each answer
    rate: float = 0.0  # bytes a second of each connection
    damaged: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)  # listed instead of the real ones
    without_digests: bool = False
    without_sizes: bool = False  # as some mirrors of Hugging Face
    ranges: bool = True
    ranges_as_200: bool = False  # with Content-Range
    pins: bool = True  # whether files can be listed at a commit
    names_commit: bool = False  # whether ModelScope's listing names the commit
    no_error_for_unknown: bool = False  # ModelScope lists no files of an unknown revision
    transfers: list[Transfer] = field(default_factory=list)
    questions: int = 0
    connections: int = 0
    asked_at: float = 0.0  # when the first question came, of time.monotonic
    leaks: list[str] = field(default_factory=list)  # secrets that came to another host
    shown: set[str] = field(default_factory=set)  # secrets that the hub was shown

    def __post_init__(self):
        self.commits: dict[str, Commit] = {}
        self.stalled, self.released, self.lock = threading.Semaphore(0), threading.Event(), threading.Lock()
        self.push(self.files)

    def push(self, files: dict[str, bytes]) -> str:
        """Commit these files to the default branch."""
        last = self.head if self.commits else None
        date = len(self.commits)
        commit = Commit(hashlib.sha1(f"{date}{sorted(files)}".encode()).hexdigest(), date, dict(files), {})
        for name, content in files.items():
            same = last and last.files.get(name) == content
            commit.changed_by[name] = last.changed_by[name] if same else commit
        self.commits[commit.sha] = self.head = commit
        self.sha256 = {name: _sha256(content) for name, content in files.items()}
        return commit.sha

    def release(self) -> None:
        """Let hanging transfers end, cut off, and hang no more."""
        self.stall_at = None
        self.released.set()

    def find(self, revision: str) -> Commit | None:
        return self.head if revision in ("main", "master") else self.commits.get(revision) if self.pins else None


class StandinServer(ThreadingHTTPServer):
    """Serves `hub`, which tests replace, at `endpoint`; large files at another host. With a certificate by TLS."""

    daemon_threads = True
    request_queue_size = 64
    hub: StandinHub

    def __init__(self, certificate: Path | None = None, cdn: "StandinServer | None" = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        scheme, self.cdn, self.is_cdn = "http", None, cdn is not None
        if certificate is not None:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.endpoint = f"{scheme}://127.0.0.1:{self.server_address[1]}"
        if cdn is None:
            self.cdn = StandinServer(certificate, self)
        else:
            self._asked = cdn
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def finish_request(self, request, client_address):
        hub = self._asked.hub if self.is_cdn else self.hub
        hub.connections += 1
        if time.monotonic() < hub.away_until:
            return
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        """Nothing: that clients go away in the middle is what tests are about."""

    def close(self) -> None:
        for server in (self, self.cdn):
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        self.hub = server._asked.hub if server.is_cdn else server.hub
        if self.hub.latency:
            time.sleep(self.hub.latency)
        if time.monotonic() < self.hub.away_until:
            self.close_connection = True
            return
        address = urlsplit(self.path)
        path, query = unquote(address.path), {key: values[0] for key, values in parse_qs(address.query).items()}
        parts = path.strip("/").split("/")
        secrets = {value for name in ("Authorization", "Cookie") if (value := self.headers.get(name))}
        if server.is_cdn:
            self.hub.leaks += secrets
        else:
            self.hub.shown |= secrets
        self.knows_token = any(self.hub.token in secret for secret in secrets)
        if self.hub.moved_to and not server.is_cdn:
            self._send(308, b"", {"Location": self.hub.moved_to + self.path})
        elif self.hub.page is not None:
            self._send(200, self.hub.page, {"Content-Type": "text/html"})
        elif path.startswith("/cdn/"):
            self._file(parts[1], parts[2])
        elif path.startswith("/api/v1/models/"):
            self._modelscope(path.removeprefix("/api/v1/models/"), query)
        elif path.startswith("/api/models/") and parts[4:5] == ["tree"]:
            self._huggingface_tree(self.hub.find(parts[5]))
        elif path.startswith("/api/models/"):
            self._huggingface("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self._resolve(parts[3], parts[4], huggingface=True)
        else:
            self._json(404, {"Code": 404, "Message": "not found"})

    def _count(self) -> None:
        self.hub.questions += 1
        self.hub.asked_at = self.hub.asked_at or time.monotonic()

    def _refused(self, refusals: list[Refusal]) -> bool:
        """Answer with the next refusal, if there is one."""
        with self.hub.lock:
            refusal = refusals.pop(0) if refusals else None
        if refusal is not None:
            self._json(refusal.status, refusal.value, refusal.headers)
        return refusal is not None

    def _modelscope(self, path: str, query: dict) -> None:
        repository, _slash, what = path.partition("/repo")
        if what == "/files":
            self._count()
            if self._refused(self.hub.refusals):
                return
        if self.hub.status:
            self._error(self.hub.status, 0, "no")
        elif repository != REPOSITORY and what:
            self._error(404, NO_REPOSITORY, "record not found")
        elif self.hub.private and not self.knows_token:
            self._error(404, PRIVATE, "no permission")
        elif what == "/files":
            self._modelscope_files(query.get("Revision", "master"))
        elif what == "":
            self._resolve(query["Revision"], query["FilePath"], huggingface=False)
        else:
            self._json(200, {"Code": 200, "Success": True, "Data": {}})

    def _modelscope_files(self, revision: str) -> None:
        commit = self.hub.find(revision)
        if commit is None and not self.hub.no_error_for_unknown:
            self._error(404, NO_REVISION, "revision not found")
            return
        data = {"Files": commit and [self._entry(commit, name) for name in commit.files]}
        if commit and self.hub.names_commit:
            data["LatestCommitter"] = {"Id": commit.sha, "ShortId": commit.sha[:8]}
        self._json(200, {"Code": 200, "Success": True, "Data": data})

    def _error(self, status: int, code: int, message: str) -> None:
        self._json(status, {"Code": code, "Message": message, "Success": False})

    def _entry(self, commit: Commit, name: str) -> dict:
        changed = commit.changed_by[name]
        entry = {
            "Path": name,
            "Name": name.split("/")[-1],
            "Type": "blob",
            "Revision": changed.sha,
            "CommittedDate": 1700000000 + changed.date,
            "Size": self._size(commit, name),
            "IsLFS": _is_large(name),
        }
        digest = _sha256(commit.files[name]) if commit is not self.hub.head else self.hub.sha256[name]
        return entry | ({} if self.hub.without_digests else {"Sha256": digest})

    def _huggingface(self, repository: str, revision: str) -> None:
        self._count()
        if self._refused(self.hub.refusals):
            return
        status, code = self.hub.status or (200 if repository == REPOSITORY else 404), "RepoNotFound"
        if self.hub.private and not self.knows_token:
            status = 401
            if self.headers.get("Authorization"):
                self._json(401, {"error": "Invalid credentials in Authorization header"})
                return
        if status == 200 and self.hub.find(revision) is None:
            status, code = 404, "RevisionNotFound"
        if status != 200:
            self._json(status, {"error": "no"}, {"X-Error-Code": code} if status in (401, 404) else {})
            return
        commit = self.hub.find(revision)
        self._json(
            200,
            {"id": repository, "sha": commit.sha, "siblings": [self._sibling(commit, name) for name in commit.files]},
        )

    def _huggingface_tree(self, commit: Commit) -> None:
        """The listing that Hugging Face's own library asks for."""
        siblings = [self._sibling(commit, name) for name in commit.files]
        entries = [
            {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
            | ({"lfs": file["lfs"] | {"oid": file["lfs"]["sha256"]}} if "lfs" in file else {})
            for file in siblings
        ]
        self._json(200, entries)

    def _sibling(self, commit: Commit, name: str) -> dict:
        if self.hub.without_sizes:
            return {"rfilename": name}
        size = self._size(commit, name)
        sibling = {"rfilename": name, "size": size} | (
            {} if self.hub.without_digests else {"blobId": self._git(commit, name)}
        )
        lfs = {"sha256": self.hub.sha256.get(name, ""), "size": size, "pointerSize": 134}
        if commit is not self.hub.head:
            lfs["sha256"] = _sha256(commit.files[name])
        return sibling | ({"lfs": lfs} if _is_large(name) and not self.hub.without_digests else {})

    def _git(self, commit: Commit, name: str) -> str:
        return _git(commit.files[name])

    def _size(self, commit: Commit, name: str) -> int:
        return self.hub.sizes.get(name, len(commit.files[name]))

    def _resolve(self, revision: str, name: str, huggingface: bool) -> None:
        commit = self.hub.find(revision)
        if self.hub.gated:
            self._json(self.hub.gated, {"error": "restricted"}, {"X-Error-Code": "GatedRepo"})
        elif commit is None or name not in commit.files:
            self._json(404, {"Code": 404, "Message": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        else:
            headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{self._git(commit, name)}"'}
            if _is_large(name):
                content = commit.files[name]
                headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{_sha256(content)}"'}
                location = f"{self.server.cdn.endpoint}/cdn/{commit.sha}/{quote(name)}"
                self._send(302, b"", headers | {"Location": location})
            else:
                self._file(commit.sha, name, ranges=huggingface, headers=headers)

    def _file(self, sha: str, name: str, ranges: bool = True, headers: dict | None = None) -> None:
        hub, content = self.hub, self.hub.commits[sha].files[name]
        if self.command == "HEAD":
            self._send(200, content, {"Accept-Ranges": "bytes"} | (headers or {}))
            return
        if self._refused(hub.file_refusals):
            return
        end = None
        if hub.weather:
            with hub.lock:
                fault = hub.weather()
            if isinstance(fault, Refusal):
                self._json(fault.status, fault.value, fault.headers)
                return
            end = fault
        if name in hub.damaged:
            content = bytes(len(content))
        wanted = self.headers.get("Range") if ranges and hub.ranges else None
        start, stop = _range(wanted, len(content)) if wanted else (0, len(content))
        with hub.lock:
            hub.transfers.append(transfer := Transfer(name, start, sha))
        if wanted and start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(206 if wanted and not hub.ranges_as_200 else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self._pass(memoryview(content)[start:stop], transfer, end)

    def _pass(self, rest: memoryview, transfer: Transfer, weather: int | None) -> None:
        """Send the rest of a file, or a part of it and then nothing."""
        hub, end = self.hub, len(rest)
        if hub.stall_at is not None and transfer.start <= hub.stall_at < transfer.start + end:
            end = hub.stall_at - transfer.start
        elif weather is not None:
            end = min(end, weather)
        else:
            with hub.lock:
                if hub.cuts and hub.cut_at < end:
                    end, hub.cuts = hub.cut_at, hub.cuts - 1
        self._write(rest[:end], transfer)
        if end < len(rest):
            self.close_connection = True
            if hub.stall_at is not None:
                hub.stalled.release()
                hub.released.wait(60)
            elif hub.resets or weather is not None and random.random() < 0.5:
                time.sleep(0.3 if hub.resets else 0)  # a reset takes with it what was not read yet
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _write(self, data: memoryview, transfer: Transfer) -> None:
        """Send, at the rate of a connection if it has one; an outage ends it."""
        began, at, step = time.monotonic(), 0, 1 << 16 if self.hub.rate else 1 << 20
        while at < len(data):
            if time.monotonic() < self.hub.away_until:
                self.close_connection = True
                raise ConnectionError
            sent = data[at : at + step]
            self.wfile.write(sent)
            at += len(sent)
            transfer.sent, transfer.ended = at, time.monotonic()
            if self.hub.rate:
                time.sleep(max(0.0, began + at / self.hub.rate - time.monotonic()))

    def _json(self, status: int, value, headers: dict | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@functools.lru_cache(64)
def _sha256(content: bytes) -> str:
    """Computed once, so that a request costs the stand-in nothing."""
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(64)
def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _range(wanted: str, size: int) -> tuple[int, int]:
    """Start and end of a request for a range."""
    start, _dash, last = wanted.removeprefix("bytes=").partition("-")
    return int(start), min(int(last) + 1, size) if last else size


def _is_large(name: str) -> bool:
    """Whether it is in large file storage, as weights are."""
    return name.endswith((".safetensors", ".bin"))
