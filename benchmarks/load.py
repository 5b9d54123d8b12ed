"""A server under mixed load for as long as one likes, and whether it is afterwards what it was before.

    python benchmarks/load.py [http://127.0.0.1:8000] [--minutes 60] [--clients 6] [--pause 0.5] [--kills 20] [--seed 0]

Clients ask short and long questions, streams and whole answers, several choices, schemas, functions, completions and
responses, of any model that is served; they send what is no request, good bodies spoiled in a few places
(`tests/fuzz_server.py`) and, one of them, what schemathesis makes of the OpenAPI document; they read slowly, and go away at
random moments. Without an address the server is one of its own, of the embedded model with a template that knows functions, in
INT4 and FP32, and the processes of its tokenizers are killed, one every so many seconds (--kills).

Each minute has a line of figures. It ends with 1 where a request got 500 or an answer that is none, where something is still
going on a while after the last client, where a request that needs every page of a cache does not begin, or where memory
grows: in the last quarter it is at most 5 % and 32 MB above that of the first. Memory is judged from ten minutes on:
what is kept of prompts fills its place first.
"""

import argparse
import contextlib
import http.client
import json
import random
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from measuring import prompts

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))

import fuzz_server  # noqa: E402
from served import embedded, serving, with_template  # noqa: E402

from itrex_chat.decoder.pages import PAGE  # noqa: E402
from itrex_chat.foundation.places import cache_home  # noqa: E402

PATIENCE = 300  # seconds
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["tea", "茶"]}},
    "required": ["name"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look_up", "description": "Look a word up", "parameters": SCHEMA}
WORDS = [*prompts.WORDS, "你好", "世界"]
BODIES = (b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b'{"messages": 1}', b'{"prompt": "x", "n": -1}')
FIRST, LAST = 0.25, 0.75  # of the time: memory is compared behind the first and in the last quarter
MORE, MORE_MB = 1.05, 32
JUDGED = 600  # seconds from which on memory is
TOKENIZER = "itrex_chat.chat.served"
KILLED = "tokenizer_ended"  # the code of what ends a stream where its tokenizer was killed again and again
REFUSED = (400, 404, 413, 422, 429, 503)


@dataclass
class Course:
    """What all clients have seen."""

    until: float
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def note(self, kind: str, finding: str = "") -> None:
        with self.lock:
            self.statuses[kind] += 1
            if finding:
                self.findings.append(finding)
                print(f"FOUND {finding}", flush=True)


@dataclass(frozen=True)
class Load:
    address: str
    models: tuple[str, ...]
    pause: float


def body(draw: random.Random, model: str) -> tuple[str, dict[str, Any]]:
    """A path and a good request."""
    words = draw.choice((4, 20, 200))
    text = prompts.filler(draw, words, WORDS)
    tokens = draw.choice((1, 8, 32, 64))
    asked: dict[str, Any] = {
        "model": model,
        "stream": draw.random() < 0.6,
        "temperature": draw.choice((0, 1)),
        "seed": draw.randrange(9),
    }
    chat = asked | {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    match draw.randrange(8):
        case 0:
            return "/v1/completions", asked | {"prompt": text, "max_tokens": tokens, "echo": True, "logprobs": 2}
        case 1:
            return "/v1/completions", asked | {"prompt": [text, "x"], "max_tokens": tokens, "n": 2, "stop": ["x"]}
        case 2:
            return "/v1/responses", asked | {"input": text, "max_output_tokens": tokens}
        case 3:
            form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
            return "/v1/chat/completions", chat | {"response_format": form}
        case 4:
            tools = [{"type": "function", "function": FUNCTION}]
            return "/v1/chat/completions", chat | {"tools": tools, "tool_choice": draw.choice(("auto", "required"))}
        case 5:
            return "/v1/chat/completions", chat | {"n": 3, "logprobs": True}
        case _:
            return "/v1/chat/completions", chat


def client(load: Load, draw: random.Random, course: Course) -> None:
    while course.left > 0:
        connection = http.client.HTTPConnection(load.address, timeout=PATIENCE)
        try:
            draw.choices((_odd, _spoiled, _good), (0.1, 0.15, 0.75))[0](connection, load, draw, course)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            course.note("broken", f"{type(error).__name__}: {error}")
        finally:
            connection.close()
        time.sleep(max(min(draw.expovariate(1 / load.pause) if load.pause else 0, course.left), 0))


def _odd(connection: http.client.HTTPConnection, load: Load, draw: random.Random, course: Course) -> None:
    path = draw.choice(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/nothing"))
    connection.request("POST", path, draw.choice(BODIES), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    told = json.loads(reply.read())
    fine = reply.status in REFUSED and told["error"]["message"]
    course.note(f"odd {reply.status}", "" if fine else f"{reply.status} {told}")


def _spoiled(_connection: http.client.HTTPConnection, load: Load, draw: random.Random, course: Course) -> None:
    path, good = draw.choice(fuzz_server.BODIES)
    status, wrong = fuzz_server.asked(load.address, path, fuzz_server.spoiled(good, draw))
    course.note(f"odd {status}", f"{status} {path}: {wrong}" if wrong else "")


def _good(connection: http.client.HTTPConnection, load: Load, draw: random.Random, course: Course) -> None:
    path, asked = body(draw, draw.choice(load.models))
    connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
    how = draw.choice(("reads", "reads", "reads", "slowly", "goes", "goes"))
    if how == "goes":
        time.sleep(draw.expovariate(2))
        if asked["stream"] and draw.random() < 0.5:
            connection.getresponse().read1(99)
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
    ending: dict[str, Any] = {"type": "done"} if last == "[DONE]" else json.loads(last)
    whole = ending.get("type") in ("done", "response.completed", "response.incomplete")
    whole = whole or ending.get("error", {}).get("code") == KILLED
    return "" if whole else f"{path} ends with {last[:200]}"


def inventor(load: Load, seed: int, course: Course) -> None:
    """A client that asks what schemathesis makes of the OpenAPI document."""
    import hypothesis
    import schemathesis

    with urllib.request.urlopen(f"http://{load.address}/openapi.json", timeout=PATIENCE) as reply:
        document = json.load(reply)
    found: Any = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [each.ok() for each in found]
    draw = random.Random(seed)
    while course.left > 0:
        operation, mode = draw.choice(operations), draw.choice(list(schemathesis.GenerationMode))
        if mode is schemathesis.GenerationMode.NEGATIVE and not operation.body:
            continue

        @hypothesis.seed(draw.randrange(1 << 30))
        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if course.left > 0:
                reply = case.call(base_url=f"http://{load.address}", timeout=PATIENCE)
                course.note(f"made up {reply.status_code}")
                assert reply.status_code < 500 or reply.status_code == 503, f"{reply.status_code} {reply.text[:300]}"
                assert reply.status_code == 200 or reply.json()["error"]["message"]
                time.sleep(load.pause)

        try:
            ask()
        except Exception as error:  # hypothesis raises what the function has, or several of them in a group
            course.note("broken", f"{operation.method} {operation.path}: {type(error).__name__} {error}"[:600])


def killer(server: psutil.Process, every: float, draw: random.Random, course: Course) -> None:
    """Kills processes of tokenizers, one after the other."""
    while course.left > 0:
        time.sleep(max(min(draw.expovariate(1 / every), course.left), 0))
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [child for child in server.children(recursive=True) if TOKENIZER in " ".join(child.cmdline())]
            if found:
                draw.choice(found).kill()
                course.note("kill")


def metrics(address: str, *labels: str) -> dict[str, float]:
    """Sums over all models, or over the lines that have these labels."""
    found = defaultdict[str, float](float)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as reply:
        for line in reply.read().decode().splitlines():
            if not line.startswith("#") and all(label in line for label in labels):
                name, _space, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)
    return found


def run(load: Load, given: argparse.Namespace, server: psutil.Process | None = None) -> int:
    began = time.monotonic()
    course, seconds = Course(began + given.minutes * 60), given.minutes * 60
    draws = [random.Random(given.seed * 1000 + number) for number in range(given.clients + 1)]
    threads = [threading.Thread(target=client, args=(load, draw, course)) for draw in draws[1:]]
    threads.append(threading.Thread(target=inventor, args=(load, given.seed, course)))
    if server and given.kills:
        threads.append(threading.Thread(target=killer, args=(server, given.kills, draws[0], course)))
    for thread in threads:
        thread.start()
    memory, told = list[tuple[float, float]](), began
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5.0, seconds / 20))
        now = metrics(load.address)
        memory.append(((time.monotonic() - began) / seconds, now["itrex_memory_bytes"] / 1e6))
        if time.monotonic() - told > 60:
            told = time.monotonic()
            going = f"{now['itrex_requests_running']:.0f} running, {now['itrex_requests_waiting']:.0f} waiting"
            print(f"{told - began:5.0f} s: {memory[-1][1]:.0f} MB, {going}, {dict(sorted(course.statuses.items()))}", flush=True)  # fmt: skip
    return _ended(load, course, memory, seconds >= JUDGED)


def _ended(load: Load, course: Course, memory: list[tuple[float, float]], judged: bool) -> int:
    if not _quiet(load.address):
        course.note("stuck", "something is still going on a minute after the last client")
    for model in load.models:
        if reason := _missing(load.address, model):
            course.note("pages", reason)
    if not _quiet(load.address):
        course.note("stuck", "what its client has left is going on a minute later")
    early = max([size for at, size in memory if at <= FIRST], default=0.0)
    late = max([size for at, size in memory if at >= LAST], default=0.0)
    if judged and late > early * MORE + MORE_MB:
        course.note("memory", f"memory grew from {early:.0f} to {late:.0f} MB")
    requests = sum(count for kind, count in course.statuses.items() if kind not in ("kill", "pages", "stuck", "memory"))
    print(f"{requests} requests: {dict(sorted(course.statuses.items()))}")
    print(f"Memory: {early:.0f} MB up to a quarter of the time, {late:.0f} MB in the last; {len(course.findings)} findings.")  # fmt: skip
    return 1 if course.findings else 0


def _quiet(address: str) -> bool:
    """Whether nothing goes on, at the latest in a minute."""
    until = time.monotonic() + 60
    while (going := metrics(address))["itrex_requests_running"] + going["itrex_requests_waiting"]:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _missing(address: str, model: str) -> str:
    """Have an answer begin that may need every page of the model's cache; why it does not. One for which the model's context is
    too short says nothing, and neither does a model that is not loaded."""
    pages = int(metrics(address, f'model="{model}"')["itrex_cache_pages"])
    asked = {"model": model, "prompt": [1], "max_tokens": pages * PAGE - 1, "stream": True}
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        begun = reply.status == 200 and reply.readline().startswith(b"data: ")
    except OSError as error:
        return f"{model}: no answer begins that needs all {pages} pages: {error}"
    finally:
        connection.close()
    print(f"{model}: an answer that needs all {pages} pages {'begins' if begun else f'got {reply.status}'}", flush=True)
    return "" if begun or not pages or reply.status == 400 else f"{model}: {reply.status}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between two requests of a client")
    parser.add_argument("--kills", type=float, default=20, help="mean seconds between two kills; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.address:
        address = urllib.parse.urlsplit(given.address).netloc
        return run(Load(address, _models(address), given.pause), given)
    # pages are so few that requests wait for them; who asks for a book gets what there is of it before a client gives up
    bounds = ("--cache-memory", "0.3", "--timeout", str(PATIENCE // 2))
    with tempfile.TemporaryDirectory() as folder:
        template = (TESTS / "tools.jinja").read_text("utf-8")
        model = with_template(embedded(cache_home()), template, Path(folder) / "knows-tools.gguf")
        options = (*bounds, "--runs", f"{folder}/runs")
        with serving(cache_home(), *options, model=str(model), variants="int4,fp32") as served:
            address = f"127.0.0.1:{served.port}"
            return run(Load(address, _models(address), given.pause), given, psutil.Process(served.process.pid))


def _models(address: str) -> tuple[str, ...]:
    with urllib.request.urlopen(f"http://{address}/v1/models", timeout=PATIENCE) as reply:
        return tuple(model["id"] for model in json.load(reply)["data"])


if __name__ == "__main__":
    sys.exit(main())
