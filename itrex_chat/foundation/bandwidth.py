"""How fast this machine reads memory, which is the limit of decode: measured shortly, then remembered."""

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation import files, machine, stored

FILE = "bandwidth.json"
SECONDS, DAY = 0.5, 86400
DISTURBED = 0.1  # share of the time that threads wait for a core
LARGE, SMALL = 512 << 20, 64 << 20  # bytes that are read; few where memory is short
PLENTY = 4 << 30  # bytes of memory


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second that all threads read together, and whether other programs took the cores while it was measured."""

    rate: float
    disturbed: bool = False


def remembered(home: Path) -> Bandwidth:
    """What was measured on this processor, now or within a day. It is measured again once a day, and the larger value stays: what
    other programs took away meanwhile is not this machine's. Nothing is remembered while they take the cores, too."""
    here = f"{machine.cpu_name()}, {machine.threads()}"
    path, known = home / FILE, 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known, when = map(float, stored.parsed_json(path.read_text("utf-8"))[here])
        if not 0 < known < math.inf:
            known = 0.0
        elif 0 <= time.time() - when < DAY:
            return Bandwidth(known)
    before, start = machine.waited_for_cores(), time.perf_counter()
    found = measured(machine.threads())
    after, seconds = machine.waited_for_cores(), time.perf_counter() - start
    waited = (after - before) / seconds / machine.threads() if before is not None and after is not None else 0.0
    best = max(found, known)
    if waited < DISTURBED:
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {here: [best, time.time()]})
    return Bandwidth(best, waited >= DISTURBED)


def measured(threads: int) -> float:
    """The best of several passes over memory within half a second, in bytes per second."""
    import numpy as np

    size = LARGE if machine.available_memory() > PLENTY else SMALL
    parts = np.array_split(np.ones(size // 8, dtype=np.uint64), threads)
    best, start = 0.0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() - start < SECONDS or not best:
            began = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, size / (time.perf_counter() - began))
    return best
