"""Does one case after the other, each in a process of its own that is forked from this one, in which everything is imported:

python -m fuzzed.server LIBRARY SEEDS FOLDER SOCKET    numbers on standard input, a line of JSON for each on standard output

Started by `fuzz_files.py`, with the sanitizers in front. A case takes its randomness from its number and nothing else;
-1, -2, … are `wrongs.py`'s.
"""

import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NoReturn

import torch

from fuzzed import artifacts, asking, checkpoints, gguf_files, pickles, records, replies, texts, tokenizing, wrongs
from fuzzed.case import Case
from itrex_chat import native
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import for_terminal
from itrex_chat.native import large_pages
from itrex_chat.settings import recipe as recipes

KINDS = {checkpoints: 30, gguf_files: 20, artifacts: 20, records: 12, texts: 9, replies: 9}
SECONDS = 30.0
MEMORY = 512 << 20  # bytes more than this process has; most models are of less than one megabyte
SENTENCE = 2000  # characters
OUTPUT, END, WHAT = "output", "end.json", "what"
STEERS = (b"\x1b", b"\x9b2J", "\u202e".encode(), b"Traceback (most recent call last):\n", b"Exception ignored")


def main(library: Path, seeds: Path, folder: Path, tokenizers: Path) -> None:
    os.environ["ITREX_CHAT_LANG"] = "en"
    native.__file__ = str(library.with_name("__init__.py"))
    # Each tensor in memory of its own, so that the sanitizer sees where it ends.
    large_pages.zeros = lambda *shape, dtype: torch.zeros(shape, dtype=dtype)
    large_pages.alone = torch.zeros
    tokenizing.use(tokenizers)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _warm(seeds, folder)
    for line in sys.stdin:
        print(json.dumps(_case(int(line), seeds, folder / line.strip())), file=told, flush=True)


def _warm(seeds: Path, folder: Path) -> None:
    """Import and compute all that good models need, in this thread alone: a fork has no others."""
    warm = folder / f"warm-{os.getpid()}"
    warm.mkdir()
    os.environ["ITREX_CHAT_CACHE"] = str(warm)
    torch.set_num_threads(1)
    machine.threads = lambda: 1
    for name in (*checkpoints.LAYOUTS, *checkpoints.LARGE):
        asking.ask(recipes.load(str(seeds / "checkpoints" / name), ["generation.max_new_tokens", "2"]), "fp32", "hi")
    recipe = recipes.load(str(seeds / "gguf" / "llama-f32.gguf"))
    os.chdir(warm)
    for use in (asking.whole_run, asking.measured):
        use(recipe, "int4", "hi", "")
    machine.threads = lambda: 2
    os.chdir(folder)
    shutil.rmtree(warm)


def _case(number: int, seeds: Path, folder: Path) -> dict:
    """Do a case; how it ended. The folder stays where that is a finding."""
    folder.mkdir()
    started, before = time.perf_counter(), _resident(os.getpid())
    child = os.fork()
    if not child:
        _do(number, seeds, folder)
    stopped, status, most = _waited(child, before + MEMORY, wrongs.SECONDS if number < 0 else SECONDS)
    seconds = time.perf_counter() - started
    told = _read(folder / END)
    how = stopped or _died(status) or told.get("how") or "finding: it ended without a word"
    output = (folder / OUTPUT).read_bytes() if (folder / OUTPUT).exists() else b""
    if not how.startswith("finding") and (found := [mark for mark in STEERS if mark in output]):
        how = f"finding: {found[0]!r} in its output"
    if how.startswith("finding"):
        how += "\n" + output.decode("utf-8", "replace")[-3000:] if output else ""
    else:
        shutil.rmtree(folder)
    what = (folder / WHAT).read_text("utf-8", "replace") if (folder / WHAT).exists() else told.get("what", "?")
    return {"case": number, "what": what, "how": how, "seconds": seconds, "memory": max(0, most - before)}


def _do(number: int, seeds: Path, folder: Path) -> NoReturn:
    """Make a case and use it, in a process for it."""
    how, what = "finding: it could not be made", "?"
    try:
        signal.alarm(int(4 * SECONDS))  # should the parent be gone
        os.chdir(folder)
        output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["ITREX_CHAT_CACHE"] = str(folder / "cache")
        torch.set_num_threads(2)
        what, case = _made(number, seeds, folder)
        Path(WHAT).write_text(what, "utf-8", "replace")
        how = _used(case.use)
    except BaseException:
        how += "\n" + traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    Path(END).write_text(json.dumps({"what": what, "how": how}), "utf-8")
    os._exit(0)


def _made(number: int, seeds: Path, folder: Path) -> tuple[str, Case]:
    if number < 0:
        case = wrongs.make(-1 - number)
        return f"wrongs: {case.what}", case
    random = Random(number)
    [kind] = random.choices(list(KINDS), list(KINDS.values()))
    case = kind.make(random, folder, seeds)
    return f"{kind.__name__.partition('.')[2]}: {case.what}", case


def _used(use: Callable[[], object]) -> str:
    try:
        use()
    except ItrexChatError as error:
        sentence = str(error)
        shown = for_terminal(sentence)
        if not shown.strip() or "\n" in shown or len(shown) > SENTENCE:
            return f"finding: this is no sentence: {sentence[:3000]!r}\n{traceback.format_exc()[-3000:]}"
        return f"refused: {type(error).__name__}: {shown}"
    except BaseException:
        return "finding: " + traceback.format_exc()
    return "finding: code was run" if Path(pickles.MARK).exists() else "done"


def _waited(child: int, most: int, seconds: float) -> tuple[str | None, int, int]:
    """Wait for a case: why it was stopped, or None; its status; the most memory that it had."""
    why, end = None, time.monotonic() + seconds
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while not poll.poll(20):
        if time.monotonic() > end:
            why = f"finding: it took more than {seconds:.0f} seconds"
        elif _resident(child) > most:
            why = f"finding: it took more than {MEMORY >> 20} MB of memory"
        if why:
            os.kill(child, signal.SIGKILL)
    os.close(handle)
    _child, status, usage = os.wait4(child, 0)
    peak = usage.ru_maxrss * 1024
    return why or (f"finding: it took {peak >> 20} MB of memory" if peak > most else None), status, peak


def _died(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        return f"finding: {signal.Signals(os.WTERMSIG(status)).name}"
    return f"finding: exit {os.WEXITSTATUS(status)}" if os.WEXITSTATUS(status) else None


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
