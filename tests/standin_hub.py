"""A local stand-in for ModelScope and Hugging Face, in so far as their libraries speak with them.

It answers as the hubs do, unhelpful parts included: large files are behind a
redirect, ModelScope ignores ranges of small files and lists no files for an
unknown revision instead of an error.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

REPOSITORY = "owner/model"


@dataclass
class Commit:
    """The files of the repository at one commit, and for each the commit that changed it last."""

    sha: str
    date: int
    files: dict[str, bytes]
    changed_by: dict[str, "Commit"]


@dataclass
class Transfer:
    """One request for a file: the byte it starts at, and how many were sent."""

    name: str
    start: int
    commit: str
    sent: int = 0


@dataclass
class StandinHub:
    """One repository on both hubs. The fields after `files` are what tests turn."""

    files: dict[str, bytes]
    status: int | None = None  # the answer to all questions about the repository
    gated: int | None = None  # the answer to requests for its files
    page: bytes | None = None  # what a login page answers in the hub's place
    cuts: int = 0  # how many transfers are still to be cut at `cut_at`
    resets: bool = False  # whether they are cut by a reset and not by an early end
    cut_at: int = 0
    stall_at: int | None = None  # transfers hang there until `release`
    damaged: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)  # listed instead of the real ones
    pins: bool = True  # whether files can be listed at a commit
    transfers: list[Transfer] = field(default_factory=list)
    questions: int = 0

    def __post_init__(self):
        self.commits: dict[str, Commit] = {}
        self.stalled, self.released = threading.Semaphore(0), threading.Event()
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
        return commit.sha

    def release(self) -> None:
        """Let hanging transfers end, cut off, and hang no more."""
        self.stall_at = None
        self.released.set()

    def find(self, revision: str) -> Commit | None:
        return self.head if revision in ("main", "master") else self.commits.get(revision) if self.pins else None


class StandinServer(ThreadingHTTPServer):
    """Serves `hub`, which tests replace, at one address on this machine."""

    daemon_threads = True
    hub: StandinHub

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Nothing: that clients go away in the middle is what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.hub = self.server.hub
        address = urlsplit(self.path)
        path, query = unquote(address.path), {key: values[0] for key, values in parse_qs(address.query).items()}
        parts = path.strip("/").split("/")
        if self.hub.page is not None:
            self._send(200, self.hub.page, {"Content-Type": "text/html"})
        elif path.startswith("/cdn/"):
            self._file(parts[1], parts[2])
        elif path.startswith("/api/v1/models/"):
            self._modelscope(path.removeprefix("/api/v1/models/"), query)
        elif path.startswith("/api/models/"):
            self._huggingface("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self._resolve(parts[3], parts[4], huggingface=True)
        else:
            self._json(404, {"Code": 404, "Message": "not found"})

    def _modelscope(self, path: str, query: dict) -> None:
        refused = self.hub.status or (None if path.startswith(f"{REPOSITORY}/") else 404)
        if path.endswith("/repo/files"):
            self.hub.questions += 1
            if refused:
                self._json(refused, {"Code": 10010205001, "Message": "record not found", "Success": False})
            else:
                commit = self.hub.find(query["Revision"])
                self._json(
                    200,
                    {
                        "Code": 200,
                        "Success": True,
                        "Data": {"Files": commit and [self._entry(commit, name) for name in commit.files]},
                    },
                )
        else:
            self._resolve(query["Revision"], query["FilePath"], huggingface=False)

    def _entry(self, commit: Commit, name: str) -> dict:
        changed = commit.changed_by[name]
        return {
            "Path": name,
            "Name": name.split("/")[-1],
            "Type": "blob",
            "Revision": changed.sha,
            "CommittedDate": 1700000000 + changed.date,
            "Size": self._size(commit, name),
            "Sha256": hashlib.sha256(commit.files[name]).hexdigest(),
            "IsLFS": _is_large(name),
        }

    def _huggingface(self, repository: str, revision: str) -> None:
        self.hub.questions += 1
        status, code = self.hub.status or (200 if repository == REPOSITORY else 404), "RepoNotFound"
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

    def _sibling(self, commit: Commit, name: str) -> dict:
        content, size = commit.files[name], self._size(commit, name)
        sibling = {
            "rfilename": name,
            "size": size,
            "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return sibling | ({"lfs": lfs} if _is_large(name) else {})

    def _size(self, commit: Commit, name: str) -> int:
        return self.hub.sizes.get(name, len(commit.files[name]))

    def _resolve(self, revision: str, name: str, huggingface: bool) -> None:
        commit = self.hub.find(revision)
        if self.hub.gated:
            self._json(self.hub.gated, {"error": "restricted"}, {"X-Error-Code": "GatedRepo"})
        elif commit is None or name not in commit.files:
            self._json(404, {"Code": 404, "Message": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        elif _is_large(name):
            self._send(302, b"", {"Location": f"{self.server.endpoint}/cdn/{commit.sha}/{quote(name)}"})
        else:
            self._file(commit.sha, name, ranges=huggingface)

    def _file(self, sha: str, name: str, ranges: bool = True) -> None:
        hub, content = self.hub, self.hub.commits[sha].files[name]
        if name in hub.damaged:
            content = bytes(len(content))
        wanted = self.headers.get("Range") if ranges else None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        hub.transfers.append(transfer := Transfer(name, start, sha))
        if wanted and start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._pass(content[start:], transfer)

    def _pass(self, rest: bytes, transfer: Transfer) -> None:
        """Send the rest of a file, or a part of it and then nothing."""
        hub, end = self.hub, len(rest)
        if hub.stall_at is not None and hub.stall_at < end:
            end = hub.stall_at
        elif hub.cuts and hub.cut_at < end:
            end, hub.cuts = hub.cut_at, hub.cuts - 1
        self.wfile.write(rest[:end])
        transfer.sent = end
        if end < len(rest):
            self.close_connection = True
            if hub.stall_at is not None:
                hub.stalled.release()
                hub.released.wait(60)
            elif hub.resets:
                time.sleep(0.3)  # a reset takes with it what was not read yet
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _json(self, status: int, value, headers: dict | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def _is_large(name: str) -> bool:
    """Whether it is in large file storage, as weights are."""
    return name.endswith((".safetensors", ".bin"))
