"""Waiting for what a process does, instead of for a time that differs between machines; and moments to kill one at."""

import os
import random
import subprocess
import time
from collections.abc import Callable

PATIENCE = 120  # seconds; only a test that fails waits as long as this


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Return when `condition()` holds; fail when `process` ends before, or when the patience does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, f"it ended with {process.returncode} before that"
        assert time.monotonic() < end, f"it did not happen in {PATIENCE} seconds"
        time.sleep(0.01)


def random_moments(seed: int, least: int) -> list[float]:
    """Parts of a whole time, one from each of equal stretches of it: ITREX_CHAT_KILLS of them, or `least`."""
    source, count = random.Random(seed), max(least, int(os.environ.get("ITREX_CHAT_KILLS", 0)))
    return [(number + source.random()) / count for number in range(count)]
