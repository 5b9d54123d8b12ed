"""How fast this machine reads memory: the limit of decode."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from itrex_chat.foundation.places import cache_home

SOURCE = Path(__file__).with_name("read_bandwidth.c")
MEGABYTES, SECONDS = 1024, 0.6


class ReadBandwidth:
    """Measures GB/s (1e9 bytes) with `threads` threads, in a process of its own; `method` says how."""

    def __init__(self, threads: int):
        self.threads, self._program = threads, _compiled()
        self.method = "C, software prefetch" if self._program else "numpy (no C compiler was found)"

    def measure(self) -> float:
        """The best of several passes within about a second."""
        command = [self._program] if self._program else [sys.executable, "-m", "measuring.bandwidth"]
        run = subprocess.run(
            [*command, str(self.threads), str(MEGABYTES), str(SECONDS)],
            check=True,
            capture_output=True,
            text=True,
            cwd=SOURCE.parent.parent,
        )
        return float(run.stdout.split()[0])


def _compiled() -> Path | None:
    folder = cache_home() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"read_bandwidth.{os.getpid()}"
    for compiler in ("cc", "gcc", "clang"):
        try:
            subprocess.run(
                [compiler, "-O3", "-march=native", "-pthread", SOURCE, "-o", program], check=True, capture_output=True
            )
            return program.replace(folder / "read_bandwidth")
        except (OSError, subprocess.CalledProcessError):
            continue
    return None


def _numpy(threads: int, megabytes: int, seconds: float) -> float:
    import numpy as np

    parts = np.array_split(np.ones(megabytes << 17, dtype=np.uint64), threads)
    best, start = 0.0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - began) / 1e9)
    return best


if __name__ == "__main__":
    print(_numpy(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
