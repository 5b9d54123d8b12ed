"""Random cases of what comes from elsewhere, under sanitizers: checkpoints, GGUF files, artifacts, records, YAML, replies.

    python tests/fuzz_files.py [CASES [FIRST]]

Cases FIRST, FIRST + 1, …; a case is the same whenever it runs. Each may end by itself or in one sentence (an
ItrexChatError). A traceback, a signal, more than 30 s or 512 MB, code that was run and text that steers a terminal are
findings: the number is printed with the command that repeats it alone, and its files are kept in build/fuzz/findings. How
every case ended is in build/fuzz/ends.jsonl.
"""

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path

import fuzzing

SERVERS = min(2, len(os.sched_getaffinity(0)))
TOGETHER = 8  # cases that share a process
TESTS, BUILD = Path(__file__).parent, fuzzing.TOP / "build" / "fuzz"
ENDS, KEPT = BUILD / "ends.jsonl", BUILD / "findings"
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:quarantine_size_mb=16:"
    "allocator_may_return_null=1:max_allocation_size_mb=4096",
    "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": f"{TESTS}{os.pathsep}{fuzzing.TOP}",
    "TOKENIZERS_PARALLELISM": "false",
}


def missing() -> str | None:
    """Why the cases cannot run here, or None."""
    return fuzzing.missing() or (
        None if fuzzing.preloaded() else f"{fuzzing.compiler()} has no libasan.so to load first"
    )


def run(numbers: Iterable[int]) -> Iterator[dict]:
    """How each case ended, as it does: `case`, `what`, `how` ("finding: …", …), `seconds`, bytes of `memory`."""
    library, seeds = fuzzing.sanitized_library(), _seeds()
    folder = Path(tempfile.mkdtemp(prefix="cases-", dir=BUILD))
    free: queue.Queue[Server] = queue.Queue()
    tokenizers = _Tokenizers(seeds, folder)
    servers = [
        Server([library, seeds, folder, tokenizers.place], folder / f"server-{number}.log") for number in range(SERVERS)
    ]
    for server in servers:
        free.put(server)

    def ends_of(numbers: list[int]) -> list[dict]:
        server = free.get()
        try:
            return server.ends_of(numbers)
        finally:
            free.put(server)

    try:
        with ThreadPool(SERVERS) as threads:
            for end in chain.from_iterable(threads.imap_unordered(ends_of, _groups(numbers))):
                if is_finding(end):
                    _keep(folder / str(end["case"]))
                yield end
    finally:
        for process in (*servers, tokenizers):
            process.close()
        shutil.rmtree(folder, ignore_errors=True)


def _groups(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Those that share a process."""
    left = iter(numbers)
    while group := list(islice(left, TOGETHER)):
        yield group


def is_finding(end: dict) -> bool:
    return end["how"].startswith("finding")


class Server:
    """A process of `fuzzed/server.py`."""

    def __init__(self, places: list[Path], log_file: Path):
        self._log = log_file
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzzed.server", *map(str, places)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | ENVIRONMENT | {"LD_PRELOAD": " ".join(fuzzing.preloaded())},
            )

    def ends_of(self, numbers: list[int]) -> list[dict]:
        """Do cases. Raises RuntimeError where the server itself has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(" ".join(map(str, numbers)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        lines = [self._process.stdout.readline() for _number in numbers]
        if not all(lines):
            raise RuntimeError(f"the server has ended: {self._log.read_text('utf-8', 'replace')[-3000:]}")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class _Tokenizers:
    """The process of `fuzzed/tokenizing.py`."""

    def __init__(self, seeds: Path, folder: Path):
        self.place, log = folder / "tokenizers", folder / "tokenizers.log"
        command = [sys.executable, "-m", "fuzzed.tokenizing", str(self.place), str(seeds)]
        self._process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log.open("w", encoding="utf-8")
        )
        while not self.place.exists():
            if self._process.poll() is not None:
                raise RuntimeError("the tokenizers' process has ended")
            time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _seeds() -> Path:
    """What the cases are changes of, made once for these sources."""
    sources = [
        *(fuzzing.TOP / "itrex_chat").rglob("*.py"),
        *TESTS.glob("tiny_*.py"),
        TESTS / "packed_checkpoints.py",
        TESTS / "fuzzed" / "seeds.py",
    ]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:16]
    folder = BUILD / f"seeds-{digest}"
    if not folder.exists():
        for old in BUILD.glob("seeds-*"):
            shutil.rmtree(old, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="seeds-", dir=BUILD))
        command = [sys.executable, "-m", "fuzzed.seeds", str(new)]
        made = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(made.stderr[-3000:])
        new.rename(folder)
    return folder


def _keep(folder: Path) -> None:
    shutil.rmtree(KEPT / folder.name, ignore_errors=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.move(folder, KEPT / folder.name)


def main(cases: int = 20000, first: int = 0) -> int:
    if reason := missing():
        sys.exit(f"The cases cannot run here: {reason}.")
    kinds: Counter[str] = Counter()
    longest = largest = {"case": None, "seconds": 0.0, "memory": 0}
    with ENDS.open("w", encoding="utf-8", buffering=1) as file:
        for end in run(range(first, first + cases)):
            file.write(json.dumps(end) + "\n")
            kinds[f"{end['what'].partition(':')[0]} {end['how'].partition(':')[0]}"] += 1
            longest = max(longest, end, key=lambda one: one["seconds"])
            largest = max(largest, end, key=lambda one: one["memory"])
            if is_finding(end):
                print(f"case {end['case']}: {end['what'][:300]}\n{end['how']}")
                print(f"again: {sys.executable} {__file__} 1 {end['case']}")
                print(f"files: {KEPT / str(end['case'])}\n", flush=True)
    print(f"{cases} cases from {first} on: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    print(f"the longest: case {longest['case']}, {longest['seconds']:.1f} s; ", end="")
    print(f"the largest: case {largest['case']}, {largest['memory'] >> 20} MB")
    return int(any(kind.endswith("finding") for kind in kinds))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
