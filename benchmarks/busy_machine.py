"""Decode on a machine that is not ours alone: quiet, beside an endless loop, and under a quota of one core, in turn.

    python benchmarks/busy_machine.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf [--counts 1 16] [--llama FOLDER]

Medians of tokens per second of so many sequences at a time, and what is left of the quiet speed. FOLDER: where llama.cpp's
llama-batched-bench lies; it then decodes the same GGUF file under the same load. The quota needs control groups of version 1 and
root; elsewhere it is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes

GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD = 100_000  # µs
TEXT = list(range(100, 132))
TOKENS = 48


@contextmanager
def quiet() -> Iterator[None]:
    yield


@contextmanager
def beside_a_loop() -> Iterator[None]:
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield
    finally:
        loop.kill()
        loop.wait()


@contextmanager
def one_core() -> Iterator[None]:
    """This process and its children have the time of one core."""
    group = GROUPS / f"busy-machine-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD), "utf-8")
        (group / "cpu.cfs_quota_us").write_text(str(PERIOD), "utf-8")
        (group / "cgroup.procs").write_text(str(os.getpid()), "utf-8")
        yield
    finally:
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()), "utf-8")
        group.rmdir()


LOADS = {"quiet": quiet, "beside an endless loop": beside_a_loop, "quota of one core": one_core}


class Ours:
    def __init__(self, decoder: Decoder, counts: list[int]):
        self._decoder = decoder
        self._caches = {count: self._read(count) for count in counts}

    def _read(self, count: int) -> KVCache:
        cache = self._decoder.new_cache(len(TEXT) + TOKENS + 1, count)
        cache.begin([len(TEXT) + TOKENS + 1] * count)
        for row in range(count):
            self._decoder.read([Chunk(row, TEXT)], cache)
        return cache

    def rate(self, count: int) -> float:
        cache = self._caches[count]
        torch.set_num_threads(machine.threads())  # as the program does where it starts under this load
        began = time.perf_counter()
        for _token in range(TOKENS):
            self._decoder.read([Chunk(row, [200 + row]) for row in range(count)], cache)
        seconds = time.perf_counter() - began
        for row in range(count):
            cache.forget(TOKENS, row)
        return count * TOKENS / seconds


class Llama:
    def __init__(self, folder: Path, model: str):
        self._environment = os.environ | {"LD_LIBRARY_PATH": f"{folder}:{folder.parent / 'lib'}"}
        self._command = [str(folder / "llama-batched-bench"), "-m", model, "-c", "4096", "-npp", str(len(TEXT))]

    def rate(self, count: int) -> float:
        threads = str(os.cpu_count())
        run = subprocess.run(
            [
                *self._command,
                "-ntg",
                str(TOKENS),
                "-npl",
                str(count),
                "-t",
                threads,
                "-tb",
                threads,
                "--output-format",
                "jsonl",
            ],
            capture_output=True,
            text=True,
            env=self._environment,
        )
        for line in run.stdout.splitlines():
            if line.startswith("{"):
                return float(json.loads(line)["speed_tg"])
        raise SystemExit(f"busy_machine: llama-batched-bench said nothing: {run.stderr[-500:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=recipes.EMBEDDED, help="a recipe, a folder or a .gguf file")
    parser.add_argument("--variant", default="int4")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama", type=Path, help="a folder with llama-batched-bench; --model is a .gguf file then")
    arguments = parser.parse_args()
    loads = {
        name: load
        for name, load in LOADS.items()
        if load is not one_core or os.access(GROUPS / "cgroup.procs", os.W_OK)
    }
    try:
        chatbot = load_chatbot(recipes.load(arguments.model), arguments.variant)
        ours = Ours(chatbot.decoder, arguments.counts)
        programs: dict[str, Callable[[int], float]] = {"itrex_chat": ours.rate}
        if arguments.llama:
            programs["llama.cpp"] = Llama(arguments.llama, arguments.model).rate
        found: dict[tuple[str, int, str], list[float]] = {}
        for _round in range(arguments.rounds):
            for load, under in loads.items():
                for count in arguments.counts:
                    for program, rate in programs.items():
                        with under():
                            found.setdefault((program, count, load), []).append(rate(count))
    except ItrexChatError as error:
        print(f"busy_machine: {error}", file=sys.stderr)
        return 1
    print("| program | at a time | load | tokens/s | of the quiet speed |\n|---|--:|---|--:|--:|")
    for (program, count, load), rates in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        share = median(rates) / median(found[program, count, "quiet"])
        print(f"| {program} | {count} | {load} | {median(rates):.1f} | {share:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
