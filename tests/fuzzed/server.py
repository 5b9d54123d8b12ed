"""Does cases in processes that are forked from this one, in which everything is imported:

python -m fuzzed.server LIBRARY SEEDS FOLDER SOCKET    lines of numbers on standard input, a line of JSON for each number on standard output

The cases of a line share a process, one after the other, for a fork costs as much as most cases. One that ends as a finding
there is done again in a process of its own, and how it ends there is how it ends; where that is no finding, those before
it are named in it. The others of the line go on in another process.

Started by `fuzz_files.py`, with the sanitizers in front. A case takes its randomness from its number and nothing else;
-1, -2, … are `wrongs.py`'s.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
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
TOO_LONG = "it took longer than"
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
        for end in _ends([int(number) for number in line.split()], seeds, folder):
            print(json.dumps(end), file=told, flush=True)


def _warm(seeds: Path, folder: Path) -> None:
    """Import and compute all that good models need, in this thread alone: a fork has no others."""
    warm = folder / f"warm-{os.getpid()}"
    warm.mkdir()
    os.environ["ITREX_CHAT_CACHE"] = str(warm)
    torch.set_num_threads(1)
    machine.threads = lambda: 1
    for name in (*checkpoints.LAYOUTS, *checkpoints.LARGE):
        asking.ask(recipes.load(str(seeds / "checkpoints" / name), ["generation.max_new_tokens", "2"]), "fp32", "hi")
    recipe = recipes.load(str(seeds / "gguf" / "llama-f32.gguf"), ["generation.max_new_tokens", "2"])
    os.chdir(warm)
    for use in (asking.whole_run, asking.measured):
        use(recipe, "int4", "hi", "")
    machine.threads = lambda: 2
    os.chdir(folder)
    shutil.rmtree(warm)


def _ends(numbers: list[int], seeds: Path, folder: Path) -> Iterator[dict]:
    """Do cases; how each ended. The folder of a finding stays."""
    left = numbers
    while left:
        done = 0
        for end in _in_one_process(left, seeds, folder):
            if _is_finding(end) and len(numbers) > 1:
                shutil.rmtree(folder / str(end["case"]))
                together, [end] = end, _in_one_process([end["case"]], seeds, folder)
                if not _is_finding(end) and TOO_LONG not in together["how"]:  # that may be the machine's
                    end = together | {
                        "how": f"finding: not alone, but after the cases {left[:done]}: {together['how']}"
                    }
            done += 1
            yield end
        left = left[done:]


def _in_one_process(numbers: list[int], seeds: Path, folder: Path) -> Iterator[dict]:
    """Do cases one after the other, up to the first that is a finding."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _do_all(numbers, seeds, folder, writing)
    os.close(writing)
    handle, alive = os.pidfd_open(child), True
    for number in numbers:
        started, before = time.perf_counter(), _resident(child)
        why = _waited(child, reading, before + MEMORY, wrongs.SECONDS if number < 0 else SECONDS)
        if not why and not os.read(reading, 1):
            _child, status = os.waitpid(child, 0)
            why, alive = _died(status) or "finding: it ended without a word", False
        end = _end(number, folder / str(number), why, time.perf_counter() - started)
        if _is_finding(end):
            break
        yield end
    if alive:  # before anything else is begun, for it may have gone on
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(handle)
    os.close(reading)
    if _is_finding(end):
        yield end


def _end(number: int, folder: Path, why: str | None, seconds: float) -> dict:
    """How a case ended that was stopped or whose process died (`why`), or that came to its end."""
    told = _read(folder / END)
    how = why or told.get("how") or "finding: it ended without a word"
    output = (folder / OUTPUT).read_bytes() if (folder / OUTPUT).exists() else b""
    if not how.startswith("finding") and (found := [mark for mark in STEERS if mark in output]):
        how = f"finding: {found[0]!r} in its output"
    memory = told.get("memory", 0)
    if not how.startswith("finding") and memory > MEMORY:
        how = f"finding: it took {memory >> 20} MB of memory"
    what = (folder / WHAT).read_text("utf-8", "replace") if (folder / WHAT).exists() else told.get("what", "?")
    if how.startswith("finding"):
        how += "\n" + output.decode("utf-8", "replace")[-3000:] if output else ""
    else:
        shutil.rmtree(folder)
    return {"case": number, "what": what, "how": how, "seconds": seconds, "memory": memory}


def _is_finding(end: dict) -> bool:
    return end["how"].startswith("finding")


def _do_all(numbers: list[int], seeds: Path, folder: Path, told: int) -> NoReturn:
    """Do the cases, in a process for them; a byte for each goes to `told` when it has ended."""
    variables = dict(os.environ)
    for number in numbers:
        os.environ.clear()
        os.environ.update(variables)
        _do(number, seeds, folder / str(number))
        os.write(told, b".")
    os._exit(0)


def _do(number: int, seeds: Path, folder: Path) -> None:
    """Make a case and use it."""
    how, what, before = "finding: it could not be made", "?", 0
    try:
        signal.alarm(int(4 * SECONDS))  # should the parent be gone
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was stopped
        folder.mkdir()
        os.chdir(folder)
        output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ["ITREX_CHAT_CACHE"] = str(folder / "cache")
        torch.set_num_threads(2)
        before = _peak(anew=True)
        what, case = _made(number, seeds, folder)
        Path(WHAT).write_text(what, "utf-8", "replace")
        how = _used(case.use)
    except BaseException:
        how += "\n" + traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    end = {"what": what, "how": how, "memory": max(0, _peak() - before)}
    (folder / END).write_text(json.dumps(end), "utf-8")


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


def _waited(child: int, told: int, most: int, seconds: float) -> str | None:
    """Wait until a case has ended or its process has; why it has to be stopped, or None."""
    end = time.monotonic() + seconds
    poll = select.poll()
    poll.register(told, select.POLLIN)
    while not poll.poll(20):
        if time.monotonic() > end:
            return f"finding: {TOO_LONG} {seconds:.0f} seconds"
        if _resident(child) > most:
            return f"finding: it took more than {MEMORY >> 20} MB of memory"
    return None


def _died(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        return f"finding: {signal.Signals(os.WTERMSIG(status)).name}"
    return f"finding: exit {os.WEXITSTATUS(status)}" if os.WEXITSTATUS(status) else None


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _peak(anew: bool = False) -> int:
    """The most memory, in bytes, that this process has had, or (`anew`) has from now on."""
    if anew:
        with contextlib.suppress(OSError):  # some systems cannot: then it is that of all cases until here
            Path("/proc/self/clear_refs").write_text("5", "utf-8")
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    return int(peak) << 10


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
