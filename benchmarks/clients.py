"""Clients of OpenAI-compatible servers, some at a time: tokens per second, and how long one waits for the first of them.

    python benchmarks/clients.py http://127.0.0.1:8000/v1 [http://127.0.0.1:8080/v1 …] [--counts 1 4 16] [--rounds 3]

Servers of the same model on the same machine are measured in turn, one after the other in each round: this program's
(`python -m itrex_chat.serve`), llama.cpp's llama-server, any other. Every second prompt is long; each is asked once, so that no
server knows it. An address may have `#model` behind it.
"""

import argparse
import json
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from measuring.prompts import filler

SHORT, LONG = 20, 400  # words of a prompt
PATIENCE = 600  # seconds


@dataclass(frozen=True)
class Measured:
    """Of all clients of a round: tokens of answers and of prompts per second, seconds to each one's first token."""

    tokens: float
    prompt_tokens: float
    firsts: list[float]


def prompt(draw: random.Random, words: int) -> str:
    return filler(draw, words) + "\nExplain this at length."


def ask(address: str, text: str, tokens: int) -> tuple[float, int, int]:
    """Seconds to the first token of a streamed answer, its tokens, and those of the prompt."""
    base, _hash, model = address.partition("#")
    asked = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | ({"model": model} if model else {})
    request = urllib.request.Request(
        f"{base.rstrip('/')}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    began, first, used = time.perf_counter(), None, dict[str, int]()
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            used = chunk.get("usage") or used
            if first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - began
    return first or time.perf_counter() - began, used["completion_tokens"], used["prompt_tokens"]


def measure(address: str, clients: int, seed: int, tokens: int, each: int = 2) -> Measured:
    """So many clients at a time, each of which asks so many questions one after the other."""
    draw = random.Random(seed)
    texts = [prompt(draw, LONG if number % 2 else SHORT) for number in range(clients * each)]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        found = list(threads.map(lambda text: ask(address, text, tokens), texts))
    seconds = time.perf_counter() - began
    return Measured(
        sum(new for _first, new, _prompt in found) / seconds,
        sum(read for _first, _new, read in found) / seconds,
        sorted(first for first, _new, _prompt in found),
    )


def row(address: str, clients: int, rounds: Sequence[Measured]) -> str:
    firsts = sorted(first for each in rounds for first in each.firsts)
    return (
        f"| {address} | {clients} | {median(each.tokens for each in rounds):.1f} | "
        f"{median(each.prompt_tokens for each in rounds):.0f} | {median(firsts):.2f} | {firsts[int(0.95 * (len(firsts) - 1))]:.2f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="of an API, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 16], help="clients at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    arguments = parser.parse_args()
    print(
        "| server | clients | tokens/s | prompt tokens/s | first token, median s | p95 s |\n|---|--:|--:|--:|--:|--:|"
    )
    try:
        for address in arguments.addresses:
            ask(address, "Hello", 2)  # has the model loaded
        for count in arguments.counts:
            found: dict[str, list[Measured]] = {address: [] for address in arguments.addresses}
            for number in range(arguments.rounds):
                for address in arguments.addresses:
                    found[address].append(measure(address, count, 1000 * count + number, arguments.tokens))
            for address, rounds in found.items():
                print(row(address, count, rounds), flush=True)
    except (urllib.error.URLError, OSError, KeyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
