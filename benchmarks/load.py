"""A server under mixed load for as long as one likes, and whether it is afterwards what it was before.

    python benchmarks/load.py http://127.0.0.1:8000 [--seconds 3600] [--clients 8] [--model NAME] [--seed 0]

Clients ask short and long questions, streams and whole answers, several choices, schemas, functions, completions and
responses; they send what is no request, read slowly, and go away at random moments. Each minute has a line of figures. It
ends with 1 where a request got 500 or an answer that is none, where something is still going on a while after the last
client, or where memory grows: in the last quarter it is at most 5 % and 32 MB above that of the first. Memory is judged
from ten minutes on: what is kept of prompts fills its place first.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from measuring import prompts

PATIENCE = 300  # seconds
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["tea", "茶"]}},
    "required": ["name"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look_up", "description": "Look a word up", "parameters": SCHEMA}
WORDS = [*prompts.WORDS, "你好", "世界"]
BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff",
    b"[" * 5000,
    b'{"messages": 1}',
    b'{"messages": [{"role": "user"}]}',
    b'{"prompt": "x", "n": -1}',
)
FIRST, LAST = 0.25, 0.75  # of the time: memory is compared behind the first and in the last quarter
MORE, MORE_MB = 1.05, 32
JUDGED = 600  # seconds from which on memory is


@dataclass
class Course:
    """What all clients have seen."""

    until: float
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, finding: str = "") -> None:
        with self.lock:
            self.statuses[kind] += 1
            if finding:
                self.findings.append(finding)
                print(f"FOUND {finding}", flush=True)


def body(draw: random.Random, model: str | None) -> tuple[str, dict[str, Any]]:
    """A path and a good request."""
    words = draw.choice((4, 20, 200))
    text = prompts.filler(draw, words, WORDS)
    asked: dict[str, Any] = {
        "stream": draw.random() < 0.6,
        "temperature": draw.choice((0, 1)),
        "seed": draw.randrange(9),
    }
    asked |= {"model": model} if model else {}
    tokens = draw.choice((1, 8, 32, 64))
    messages = [{"role": "user", "content": text}]
    match draw.randrange(8):
        case 0:
            return "/v1/completions", asked | {"prompt": text, "max_tokens": tokens, "echo": True, "logprobs": 2}
        case 1:
            return "/v1/completions", asked | {"prompt": [text, "x"], "max_tokens": tokens, "n": 2, "stop": ["x"]}
        case 2:
            return "/v1/responses", asked | {"input": text, "max_output_tokens": tokens}
        case 3:
            form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
            return "/v1/chat/completions", asked | {"messages": messages, "max_tokens": tokens, "response_format": form}
        case 4:
            tools = {
                "tools": [{"type": "function", "function": FUNCTION}],
                "tool_choice": draw.choice(("auto", "required")),
            }
            return "/v1/chat/completions", asked | tools | {"messages": messages, "max_tokens": tokens}
        case 5:
            return "/v1/chat/completions", asked | {
                "messages": messages,
                "max_tokens": tokens,
                "n": 3,
                "logprobs": True,
            }
        case _:
            return "/v1/chat/completions", asked | {"messages": messages, "max_tokens": tokens}


def client(address: str, model: str | None, draw: random.Random, course: Course) -> None:
    while time.monotonic() < course.until:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        try:
            _request(connection, model, draw, course)
        except (OSError, http.client.HTTPException, ValueError) as error:
            course.note("broken", f"{type(error).__name__}: {error}")
        finally:
            connection.close()


def _request(connection: http.client.HTTPConnection, model: str | None, draw: random.Random, course: Course) -> None:
    if draw.random() < 0.15:
        path = draw.choice(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/nothing"))
        connection.request("POST", path, draw.choice(BODIES), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        told = json.loads(reply.read())
        course.note(
            str(reply.status), "" if reply.status < 500 and told["error"]["message"] else f"{reply.status} {told}"
        )
        return
    path, asked = body(draw, model)
    connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
    how = draw.choice(("reads", "reads", "reads", "slowly", "goes", "goes"))
    if how == "goes":
        time.sleep(draw.expovariate(2))
        course.note("gone")
        return
    reply = connection.getresponse()
    parts = []
    while part := reply.read1(64 if how == "slowly" else 1 << 16):
        parts.append(part)
        if how == "slowly":
            time.sleep(0.02)
    content = b"".join(parts).decode()
    course.note(str(reply.status), _wrong(reply.status, content, asked["stream"], path))


def _wrong(status: int, content: str, stream: bool, path: str) -> str:
    """What is wrong with an answer; nothing where it is as it has to be. Functions are refused where the template knows none."""
    if status in (400, 429, 503):
        return "" if json.loads(content)["error"]["message"] else content[:200]
    if status != 200:
        return f"{status} {content[:200]}"
    if not stream:
        json.loads(content)
        return ""
    *_events, last = [line[6:] for line in content.split("\n") if line.startswith("data: ")]
    whole = last == "[DONE]" or json.loads(last).get("type") in ("response.completed", "response.incomplete")
    return "" if whole else f"{path} ends with {last[:200]}"


def metrics(address: str) -> dict[str, float]:
    """Sums over all models."""
    found = defaultdict[str, float](float)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as reply:
        for line in reply.read().decode().splitlines():
            if not line.startswith("#"):
                name, _space, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    address = urllib.parse.urlsplit(given.address).netloc
    began = time.monotonic()
    course = Course(began + given.seconds)
    threads = [
        threading.Thread(target=client, args=(address, given.model, random.Random(given.seed * 1000 + number), course))
        for number in range(given.clients)
    ]
    for thread in threads:
        thread.start()
    memory, told = list[tuple[float, float]](), began
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5.0, given.seconds / 20))
        now = metrics(address)
        memory.append(((time.monotonic() - began) / given.seconds, now["itrex_memory_bytes"] / 1e6))
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{told - began:5.0f} s: {memory[-1][1]:.0f} MB, {now['itrex_requests_running']:.0f} running, {dict(course.statuses)}", flush=True)  # fmt: skip
    return _ended(address, course, memory, given.seconds >= JUDGED)


def _ended(address: str, course: Course, memory: list[tuple[float, float]], judged: bool) -> int:
    until = time.monotonic() + 60
    while (going := metrics(address))["itrex_requests_running"] + going["itrex_requests_waiting"]:
        if time.monotonic() > until:
            course.note("stuck", "something is still going on a minute after the last client")
            break
        time.sleep(0.2)
    early = max([size for at, size in memory if at <= FIRST], default=0.0)
    late = max([size for at, size in memory if at >= LAST], default=0.0)
    if judged and late > early * MORE + MORE_MB:
        course.note("memory", f"memory grew from {early:.0f} to {late:.0f} MB")
    print(f"{sum(course.statuses.values())} requests: {dict(course.statuses)}")
    print(
        f"Memory: {early:.0f} MB up to a quarter of the time, {late:.0f} MB in the last; {len(course.findings)} findings."
    )
    return 1 if course.findings else 0


if __name__ == "__main__":
    sys.exit(main())
