"""The measuring side of a contestant: a process that reads one job from standard input and tells what it measured.

Standard library alone, since it runs in every contestant's environment. Each line that it prints is one JSON object
with a `kind`: "load", "about", "answer", "batch", "memory" or "failed".

Prefill and decode are measured alike for all: a contestant answers a prompt of given ids with a given number of greedy
tokens. The time to the first is TTFT (prefill, for a long prompt), the mean of the others is decode.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

WARM_UP = 8  # tokens


@dataclass(frozen=True)
class Answer:
    """`ttft`: seconds to the first token; `tpot`: for each of the others on average, None where there is none."""

    token_ids: list[int]
    ttft: float
    tpot: float | None


class Engine(Protocol):
    """A contestant's model, loaded by the constructor: `Engine(model, threads, context, **options)`."""

    def generate(self, ids: list[int], count: int) -> Answer:
        """`count` greedy tokens after the prompt, whatever they mean."""

    def about(self) -> dict:
        """`versions` by package, and what else is worth knowing (`weight_bytes`: what one decoded token reads)."""


class Stopwatch:
    """The times of an answer's tokens, for engines that hand them out one by one."""

    def __init__(self):
        self._started, self._times, self._tokens = time.perf_counter(), [], []

    def token(self, token: int) -> None:
        self._times.append(time.perf_counter())
        self._tokens.append(token)

    def answer(self) -> Answer:
        first, last, others = self._times[0], self._times[-1], len(self._times) - 1
        return Answer(self._tokens, first - self._started, (last - first) / others if others else None)


def serve(load: Callable[[], Callable[..., Any]]) -> None:
    """Do the job on standard input with the engine class that `load()` imports."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output what they like

    def tell(kind: str, **values: Any) -> None:
        print(json.dumps({"kind": kind} | values), file=out)

    try:
        work(json.load(sys.stdin), load, tell)
    except Exception as error:
        traceback.print_exc()
        tell("failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        sys.exit(1)


def work(job: dict, load: Callable[[], Callable[..., Any]], tell: Callable[..., None]) -> None:
    started = time.perf_counter()
    engine_class = load()
    imported = time.perf_counter()
    engine = engine_class(job["model"], job["threads"], job["context"], **job["options"])
    tell("load", seconds=time.perf_counter() - imported, imports=imported - started, peak=peak_memory())
    engine.generate(job["warm_up"], WARM_UP)
    tell("about", **engine.about())
    for sample in job["samples"]:
        answer = engine.generate(sample["ids"], sample["count"])
        if len(answer.token_ids) != sample["count"]:
            raise RuntimeError(f"{len(answer.token_ids)} tokens instead of {sample['count']}")
        tell("answer", what=sample["what"], prompt=len(sample["ids"]), **vars(answer))
    for sample in job["batches"]:
        tell(
            "batch",
            size=sample["size"],
            tokens=sample["size"] * sample["count"],
            seconds=engine.batch(sample["ids"], sample["size"], sample["count"]),
        )
    tell("memory", peak=peak_memory())


def peak_memory() -> int:
    """Bytes; of this program alone, not of what the process was before it."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
