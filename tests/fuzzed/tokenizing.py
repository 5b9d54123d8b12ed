"""The tokenizers' processes of cases (`itrex_chat/chat/served.py`): forked from one that has everything imported.

python -m fuzzed.tokenizing SOCKET SEEDS

They have the bounds that the program gives them, and no sanitizer: nothing of ours in C is reached there. A connection
brings the two ends of a process's streams; back come its number and, at its end, its status.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from itrex_chat.chat import confined

NUMBER = struct.Struct("<i")
SECONDS = (
    3  # of processor time, instead of the program's 20: so that a case that reaches it does not take its whole time
)


def use(place: Path) -> None:
    """Have the tokenizers of this process started there from now on."""
    confined.SECONDS = SECONDS
    start = lambda command, env, **_options: _Process(place, env)
    confined.subprocess = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]


class _Process:
    """As much of a subprocess.Popen as `confined.py` needs."""

    def __init__(self, place: Path, environment: dict[str, str]):
        (in_end, in_), (out, out_end) = os.pipe(), os.pipe()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(place))
        socket.send_fds(self._connection, [environment["ITREX_CHAT_LANG"].encode()], [in_end, out_end])
        os.close(in_end)
        os.close(out_end)
        self.stdin, self.stdout = os.fdopen(in_, "wb"), os.fdopen(out, "rb")
        self.pid = _number(self._connection)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(_number(self._connection))


def _number(connection: socket.socket) -> int:
    [number] = NUMBER.unpack(connection.recv(NUMBER.size))
    return number


def main(place: Path, seeds: Path) -> None:
    _warm(seeds)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place))
    listening.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that watch are not waited for
    while True:
        connection, _address = listening.accept()
        if not os.fork():
            listening.close()
            _watch(connection)
        connection.close()


def _watch(connection: socket.socket) -> None:
    """Start a process with the streams that the connection brings, and tell how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    language, streams, *_more = socket.recv_fds(connection, 16, 2)
    child = os.fork()
    if not child:
        connection.close()
        _be(language.decode(), *streams)
    for stream in streams:
        os.close(stream)
    connection.send(NUMBER.pack(child))
    _child, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):  # nobody waits any more
        connection.send(NUMBER.pack(status))
    os._exit(0)


def _be(language: str, requests: int, replies: int) -> None:
    """The process itself."""
    os.environ["ITREX_CHAT_LANG"] = language
    os.dup2(requests, 0)
    os.dup2(replies, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.close(requests)
    os.close(replies)
    sys.stdin = os.fdopen(0, closefd=False)
    code = 1
    try:
        from itrex_chat.chat.served import main

        main()
        code = 0
    finally:
        os._exit(code)


def _warm(seeds: Path) -> None:
    """Import all that good tokenizers need."""
    from itrex_chat.chat.families import read_tokenizer
    from itrex_chat.chat.messages import Message
    from itrex_chat.settings.recipe import Chat

    named = {"chatglm3": "chatglm3", "qwen": "qwen", "baichuan2": "baichuan2", "llama": "llama", "older": "llama"}
    places: list[tuple[Path, str, Any]] = [
        (seeds / "checkpoints" / name, family, None) for name, family in named.items()
    ]
    for folder, family, gguf in [*places, (seeds, "llama", seeds / "gguf" / "llama-f32.gguf")]:
        read_tokenizer(folder, family, Chat(), gguf).prompt([Message("user", "hi")])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
