"""Rounds: every contestant in turn, each in a process of its own, several times over.

What disturbs a shared machine for a while then disturbs all alike. Before each contestant the memory's read bandwidth
is measured.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from measuring.bandwidth import ReadBandwidth
from measuring.contestants import Contestant, Entry
from measuring.models import Model
from measuring.processes import Unavailable, start
from measuring.worker import WARM_UP

TIME_LIMIT = 3600  # seconds for one contestant in one round


@dataclass(frozen=True)
class Plan:
    """What each contestant is asked in a round.

    `samples`: what it is called, prompt ids, and how many tokens to answer. `batches`: sizes with a prompt and a number
    of tokens, for those that can.
    """

    warm_up: list[int]
    samples: list[tuple[str, list[int], int]]
    batches: list[tuple[int, list[int], int]] = field(default_factory=list)

    def job(self, entry: Entry, threads: int) -> dict:
        longest = max(
            len(ids) + count for _what, ids, count in [*self.samples, *self.batches, (0, self.warm_up, WARM_UP)]
        )
        return {
            "model": str(entry.file),
            "threads": threads,
            "context": (longest // 512 + 1) * 512,
            "options": entry.options,
            "warm_up": self.warm_up,
            "samples": [{"what": what, "ids": ids, "count": count} for what, ids, count in self.samples],
            "batches": [{"size": size, "ids": ids, "count": count} for size, ids, count in self.batches],
        }


@dataclass
class Results:
    """Everything that was measured with one model: raw lines by contestant and round, bandwidths, and who failed why."""

    model: str
    lines: dict[str, list[list[dict]]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)
    disturbances: list[float] = field(default_factory=list)  # share of the CPU that other programs took meanwhile
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def measure(
    model: Model,
    contestants: list[Contestant],
    plan: Plan,
    rounds: int,
    threads: int,
    bandwidth: ReadBandwidth,
    logs: Path,
) -> Results:
    """Prepare all contestants, then let them run in turn; one that fails is out, and the others go on.

    After an interrupt the results hold what was measured until then.
    """
    results = Results(model.name)
    try:
        _prepare(results, model, contestants)
        for number in range(rounds):
            _round(
                results,
                number,
                rounds,
                [contestant for contestant in contestants if contestant.name in results.lines],
                plan,
                threads,
                bandwidth,
                logs,
            )
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _prepare(results: Results, model: Model, contestants: list[Contestant]) -> None:
    for contestant in contestants:
        try:
            results.entries[contestant.name] = contestant.enter(model)
            results.lines[contestant.name] = []
        except Unavailable as problem:
            _drop(results, contestant, str(problem))


def _round(
    results: Results,
    number: int,
    rounds: int,
    running: list[Contestant],
    plan: Plan,
    threads: int,
    bandwidth: ReadBandwidth,
    logs: Path,
) -> None:
    """Each contestant once; another one begins every time."""
    turn = number % max(1, len(running))
    for contestant in running[turn:] + running[:turn]:
        results.bandwidths.append(bandwidth.measure())
        started, busy, own = time.perf_counter(), _busy(), _children()
        try:
            entry = results.entries[contestant.name]
            results.lines[contestant.name].append(
                _run(entry, plan.job(entry, threads), threads, logs / f"{results.model}-{contestant.name}.log")
            )
        except Unavailable as problem:
            _drop(results, contestant, str(problem))
            continue
        seconds = time.perf_counter() - started
        others = (_busy() - busy) - (_children() - own)
        results.disturbances.append(max(0.0, others / seconds / (os.cpu_count() or 1)))
        print(
            f"{results.model}, round {number + 1} of {rounds}: {contestant.title}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _busy() -> float:
    """CPU seconds that all programs of the machine have used."""
    user, nice, system, _idle, _wait, *rest = map(
        int, Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _drop(results: Results, contestant: Contestant, reason: str) -> None:
    results.failures[contestant.name] = reason
    results.lines.pop(contestant.name, None)
    print(f"{results.model}: {contestant.title} cannot take part: {reason}", file=sys.stderr, flush=True)


def _run(entry: Entry, job: dict, threads: int, log: Path) -> list[dict]:
    """The lines that a worker told. Raises Unavailable with the reason of its failure."""
    with (
        log.open("w", encoding="utf-8") as errors,
        tempfile.TemporaryDirectory() as scratch,
    ):  # some write files where they run
        process = start(
            [entry.python, "-m", entry.module],
            {"OMP_NUM_THREADS": str(threads)} | entry.variables,
            scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            output, _none = process.communicate(json.dumps(job), TIME_LIMIT)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done within {TIME_LIMIT} s") from None
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in output.splitlines()]
    failed = next((line["reason"] for line in lines if line["kind"] == "failed"), None)
    if failed or process.returncode:
        raise Unavailable(failed or f"ended with code {process.returncode}; see {log}")
    return lines
