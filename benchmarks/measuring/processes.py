"""Processes of contestants and converters."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itrex_chat.foundation.places import PACKAGE

HERE = Path(__file__).resolve().parent.parent
VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Unavailable(Exception):
    """A peer cannot take part; the message says why, in one line."""


@dataclass(frozen=True)
class Made:
    """What a converter took: its command without folder names, seconds, peak memory in bytes."""

    command: str
    seconds: float
    peak: int


def start(command: list, variables: dict[str, str], folder: Path | str = HERE, **streams: Any) -> subprocess.Popen[str]:
    """Start a command in `folder`. Should the memory run out, it goes first."""
    paths = (
        [HERE, PACKAGE.parent] if str(command[0]) == sys.executable else [HERE]
    )  # the program that runs here, no other
    search = {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | VARIABLES | search | variables,
        encoding="utf-8",
        errors="replace",
        preexec_fn=_go_first,
        **streams,
    )


def convert(command: list, variables: dict[str, str] | None = None) -> Made:
    """Run a converter to its end. Raises Unavailable with the last line that it wrote."""
    began = time.perf_counter()
    process = start(command, variables or {}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    name = " ".join(Path(part).name for part in map(str, command))
    try:
        output = process.stdout.read() if process.stdout else ""
        _pid, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "without a word")
        raise Unavailable(f"{name} ended with code {process.returncode}: {last.strip()[:300]}")
    return Made(name, time.perf_counter() - began, usage.ru_maxrss * 1024)


def _go_first() -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as score:
        score.write("1000")
