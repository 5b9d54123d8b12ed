"""Replies of endpoints: JSON, HTTP and bytes, to `online` and `judge`; what is stored is comparable, the key in none of it."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzzed.case import Case
from fuzzed.values import STEERING, TEXTS, as_json, damaged, mutated
from itrex_chat import compare, judge, online
from itrex_chat.endpoints import endpoint as endpoints
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.places import cache_home

KEY = "sk-test-0123456789"
SECONDS = 2.0  # that a reply may take
COMPLETION = {
    "id": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "1"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
EMBEDDING = {"data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": [1, 0.25]}]}
STATUSES = (
    "200 OK",
    "204 No",
    "301 x",
    "307 x",
    "400 " + KEY,
    "401 x",
    "429 x",
    "500 x",
    "99 x",
    "abc",
    "200",
    "2000 x",
    "100 Continue",
)
HEADERS = (
    "Transfer-Encoding: chunked",
    "Content-Encoding: gzip",
    "Location: /elsewhere",
    "Location: http://127.0.0.1:1/" + KEY,
    "Location: http://[evil/" + STEERING,
    "Content-Length: -5",
    "Content-Length: 99999999999",
    "Content-Length: 3",
    "Content-Type: " + "x" * 70_000,
    "Set-Cookie: " + KEY,
    " folded",
    "no colon",
)


class Server:
    """Sends one prepared reply after the other, each on a connection of its own, the last one for ever."""

    def __init__(self, replies: list[bytes]):
        self._replies, self._listening = replies, socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _address = self._listening.accept()
            with connection:
                try:
                    _read_request(connection)
                    connection.sendall(self._replies.pop(0) if len(self._replies) > 1 else self._replies[0])
                except OSError:
                    pass


def _read_request(connection: socket.socket) -> None:
    connection.settimeout(SECONDS)
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(1 << 16)
    head, _end, body = request.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    while len(body) < length:
        body += connection.recv(1 << 16)


def make(random: Random, folder: Path, seeds: Path) -> Case:
    run = cache_home() / "runs" / "run"
    shutil.copytree(seeds / "run", run)
    use: Callable[[Path, endpoints.Endpoint], object] = random.choice((_online, _judged, _alike))
    content = EMBEDDING if use is _alike else COMPLETION
    replies = [_reply(random, content) for _time in range(random.choice((1, 1, 3)))]
    if random.random() < 0.3:
        replies.insert(0, _http(json.dumps(content).encode()))
    return Case(f"{use.__name__}: {replies[0][:80]!r}", lambda: _use(use, run, replies))


def _use(use: Callable[[Path, endpoints.Endpoint], object], run: Path, replies: list[bytes]) -> None:
    os.environ["OPENAI_API_KEY"] = KEY
    endpoints.PAUSE = 0  # type: ignore[misc]
    endpoint = endpoints.Endpoint(Server(replies).address, "model", KEY, SECONDS)
    refused = None
    try:
        use(run, endpoint)
    except ItrexChatError as error:
        refused = error
    compare.compare([run])
    for file in run.rglob("*"):
        assert file.is_dir() or KEY not in file.read_text("utf-8"), f"the key is in {file.name}"
    if refused:
        assert KEY not in str(refused), "the key is shown"
        raise refused


def _online(run: Path, endpoint: endpoints.Endpoint) -> None:
    online.online(run, endpoint, told=tell)


def _judged(run: Path, endpoint: endpoints.Endpoint) -> None:
    judge.judge(run, endpoint)


def _alike(run: Path, endpoint: endpoints.Endpoint) -> None:
    endpoint.similarity("a", "b")


def _reply(random: Random, content: dict) -> bytes:
    how = random.random()
    if how < 0.6:
        body = as_json(mutated(content, random), random)
        if random.random() < 0.3:
            text = random.choice((KEY, *TEXTS)) + f" {KEY} " + random.choice(TEXTS)
            body = json.dumps(content).replace('"1"', json.dumps(text)).encode()
        return _http(body)
    body = json.dumps(content).encode()
    if how < 0.75:
        return damaged(_http(body), random)
    if how < 0.8:
        return random.choice((b"", b"\0" * 100, b"HTTP/1.1 200 OK\r\n\r\n" + random.randbytes(500), b"\r\n" * 999))
    if how < 0.88:
        chunks = random.choice(
            (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"zz\r\n" + body, b"-5\r\n" + body, b"ffffffffff\r\n" + body)
        )
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    headers = random.choices(HEADERS, k=random.choice((1, 2, 5, 150)))
    return _http(body, random.choice(STATUSES), headers)


def _http(body: bytes, status: str = "200 OK", headers: list[str] = []) -> bytes:  # noqa: B006
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + body
