"""ITREX's worker, seen from this program: started, given jobs, heard, and its end explained."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from itrex_chat.engines.itrex import environment
from itrex_chat.foundation import death, files, machine, progress
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _

WORKER = Path(__file__).resolve().parent / "worker"
SAMPLER = Path(__file__).resolve().parents[2] / "generation" / "sampling.py"
KEPT_LOGS = 50
BROKEN = ("ModuleNotFoundError", "ImportError", "OSError: lib")
STEPS = (
    "Applying Weight Only",
    "round-to-nearest algorithm",
    "Mixed Precision Statistics",
    "WeightOnlyQuant done",
    "Model loaded",
)
CAUGHT = re.compile(r"ERROR:Exception: (.+)")
# What the log says of the quantization: which matrices, how long it took, what was chosen for what was asked.
NOTABLE = re.compile(
    r"Applying Weight Only|elapsed time|Mixed Precision|INFO\] [|+]|WeightOnlyQuant done|weight_type is used"
    r"|Model loaded",
    re.IGNORECASE,
)


class Process:
    """One variant in ITREX's environment. Close it, or use it in a `with` statement.

    It works in a folder of its own, which holds the model under the name that
    ITREX understands and takes what ITREX writes beside it. Each method raises
    EngineError with what went wrong and where the log is.
    """

    def __init__(self, folder: Path, name: str, variant: str, home: Path):
        self._python = environment.find().python
        self.name, self.variant = name, variant
        self._number, self._busy = 0, threading.RLock()
        with files.disk_errors(EngineError, _("Starting ITREX in {folder}", folder=home / "itrex")):
            self._scratch = _scratch(home / "itrex" / "work")
            (self._scratch / name).symlink_to(folder)
            logs = home / "itrex" / "logs"
            logs.mkdir(parents=True, exist_ok=True)
            for old in sorted(logs.iterdir())[:-KEPT_LOGS]:
                old.unlink(missing_ok=True)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.log = logs / f"{stamp}-{folder.name}-{variant}-{os.getpid()}.log"
        variables = environment.clean_environment() | {"OMP_NUM_THREADS": str(machine.threads())}
        try:
            self._worker = subprocess.Popen(
                [self._python, "-B", WORKER, self.log],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                cwd=self._scratch,
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise EngineError(
                _(
                    "ITREX's interpreter {python} cannot be run: {reason}. Install it again: {command}",
                    python=self._python,
                    reason=error.strerror,
                    command=environment.INSTALL,
                )
            ) from None
        assert self._worker.stdin is not None and self._worker.stdout is not None  # pipes, as was asked for
        self._jobs, self._told = self._worker.stdin, self._worker.stdout

    def load(self, **job: Any) -> dict:
        """What the worker says of the loaded model (`worker/itrex_building.py`)."""
        self._send("load", model=self.name, threads=machine.threads(), **job)
        return next(self._events("loaded"))

    def answer(self, ids: list[int], room: int, stop_ids: list[int], sampling: dict) -> Iterator[dict]:
        """The events of an answer: "token" with its id for each, then "end".

        An answer that nobody hears to its end is given up when the next job
        comes. Threads wait for each other.
        """
        with self._busy:
            self._send("answer", ids=ids, room=room, stop_ids=stop_ids, sampling=sampling, sampler=str(SAMPLER))
            yield from self._events("end")

    def ask(self, task: str, **job: Any) -> dict:
        """The one event that a small task gives back under its own name."""
        with self._busy:
            self._send(task, **job)
            return next(self._events(task))

    def notable(self) -> list[str]:
        """The lines of the log that tell of the quantization."""
        with contextlib.suppress(OSError):
            return [
                line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if NOTABLE.search(line)
            ]
        return []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """A bar over the steps of a quantization, as the log tells of them."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.5):
                log = self.log.read_text("utf-8", "replace") if self.log.is_file() else ""
                bar.update(sum(step in log for step in STEPS) - bar.n)

        with progress.bar(_("quantizing with ITREX"), len(STEPS), "steps") as bar:
            watcher = threading.Thread(target=look, daemon=True)
            watcher.start()
            try:
                yield
            finally:
                done.set()
                watcher.join()

    def close(self) -> None:
        self._worker.kill()
        self._worker.wait()
        for stream in (self._jobs, self._told):
            with contextlib.suppress(OSError):
                stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _send(self, task: str, **job: Any) -> None:
        self._number += 1
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died; what it said last tells
            self._jobs.write(json.dumps({"task": task, "number": self._number, **job}) + "\n")
            self._jobs.flush()

    def _events(self, last: str) -> Iterator[dict]:
        """The events of the job that was sent last, up to the `last`; what is left of an earlier one is passed over."""
        number = self._number
        for line in self._told:
            event = json.loads(line)
            if event.pop("number", number) != number:
                continue
            if event["event"] == "error":
                raise self._failure(event["message"])
            yield event
            if event["event"] == last:
                return
            if self._number != number:
                raise EngineError(_("Another question was put to ITREX before this answer ended."))
        raise self._failure(self._death())

    def _death(self) -> str:
        return death.how(self._worker.wait())

    def _failure(self, message: str) -> EngineError:
        if message.startswith(BROKEN):
            environment.suspect()
            return EngineError(
                _(
                    "ITREX's environment of {python} is broken ({reason}). Repair it: {command}",
                    python=self._python,
                    reason=message.rstrip("."),
                    command=environment.INSTALL,
                )
            )
        return EngineError(
            _("ITREX failed: {reason}. Its log: {log}", reason=message.rstrip(".") + self._logged(), log=self.log)
        )

    def _logged(self) -> str:
        """What the log says last of an exception that ITREX caught and kept to itself."""
        with contextlib.suppress(OSError):
            found = CAUGHT.findall(self.log.read_text("utf-8", "replace"))
            return f" ({found[-1].strip()[:300].rstrip('.')})" if found else ""
        return ""


def _scratch(folder: Path) -> Path:
    """A new working folder; those of processes that are gone are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not _alive(old.name.partition("-")[0]):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder))


def _alive(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        pass
    return True
