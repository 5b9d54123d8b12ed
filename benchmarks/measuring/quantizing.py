"""Quantizing with an algorithm in a process of its own: seconds of each block, the peak of memory, and the same bytes after kills."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Made:
    """An artifact as it was made: all seconds, those of the processor, bytes of memory at most, seconds of each block but the first (when that was begun
    nobody saw), and the SHA-256 of its files of weights."""

    seconds: float
    of_processor: float
    peak: int
    blocks: list[float]
    digests: dict[str, str]

    def foretold(self, layers: int, all_layers: int) -> float:
        """Seconds for all layers, from these."""
        each = sum(self.blocks) / len(self.blocks) if self.blocks else self.seconds / layers
        return self.seconds + (all_layers - layers) * each


def quantized(model: Path, cache: Path, settings: Sequence[str]) -> Made:
    """Quantize in a cache of its own, which may hold what an interrupted quantization left. Ends this program where that fails."""
    started = time.perf_counter()
    process = _started(model, cache, settings, subprocess.PIPE)
    error = process.stderr.read() if process.stderr else ""
    _pid, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(error)
    seconds = time.perf_counter() - started
    [manifest] = (cache / "artifacts").glob("*/manifest.json")
    told = json.loads(manifest.read_text("utf-8"))
    digests = {name: file["sha256"] for name, file in told["files"].items() if name.endswith(".safetensors")}
    return Made(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, _blocks(manifest.parent, told), digests
    )


def killed(model: Path, cache: Path, settings: Sequence[str], kills: int, within: float, seed: int) -> Made:
    """The same with so many kills before, each at a moment drawn from the first `within` seconds of its process."""
    draw, done = random.Random(seed), 0
    while done < kills:
        process = _started(model, cache, settings, subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0, within))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        else:
            shutil.rmtree(cache / "artifacts")  # it came to its end: once more from the beginning
    return quantized(model, cache, settings)


def _started(model: Path, cache: Path, settings: Sequence[str], error: int) -> subprocess.Popen[str]:
    pairs = [part for place in range(0, len(settings), 2) for part in ("--set", *settings[place : place + 2])]
    command = [sys.executable, "-m", "itrex_chat.quantize", "--model", str(model), *pairs]
    surroundings = os.environ | {"ITREX_CHAT_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=error, text=True, env=surroundings)


def _blocks(folder: Path, told: dict) -> list[float]:
    """Seconds between the times at which the last files of two blocks were written; none where blocks share files."""
    last: dict[int, str] = {}
    for name, file in told["tensors"].items():
        if name.startswith("model.layers."):
            number = int(name.split(".")[2])
            last[number] = max(last.get(number, ""), file)
    if len(set(last.values())) < len(last):
        return []
    times = [(folder / last[number]).stat().st_mtime for number in sorted(last)]
    return [end - begin for begin, end in zip(times, times[1:])]
