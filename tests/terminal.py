"""A program at a pseudo-terminal, as somebody who types there sees it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from moments import PATIENCE

SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[=>])")
WHERE, THERE = b"\x1b[6n", b"\x1b[1;1R"  # a program asks where the cursor is

# The terminal becomes the process's own, so that Ctrl-C interrupts it. In a process of its own: this one has threads.
TAKES_IT = (
    "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
READS, READ = "\x1b[?2004h", "\x1b[?2004l"  # pasting is possible in a prompt; it is over


class Terminal:
    """Runs a module in a terminal of its own; in a `with` statement, at whose end it is gone. `seen` is all that came."""

    def __init__(self, module: str, *arguments: str, **variables: str):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKES_IT, "-m", module, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={name: value for name, value in os.environ.items() if name != "NO_COLOR"}
            | {"TERM": "xterm-256color"}
            | variables,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""
        self._raw = b""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str, since: int | None = None) -> str:
        """What comes until this text does, without what steers the terminal; `since` is a place in `seen`, now by default."""
        begin, end = len(self.seen) if since is None else since, time.monotonic() + PATIENCE
        while text not in (shown := SEQUENCE.sub("", self.seen[begin:])):
            assert self._more(), f"it ended without saying {text!r}: {shown}"
            assert time.monotonic() < end, f"it does not say {text!r}: {shown}"
        return shown

    def asked(self, line: str, text: str) -> str:
        """What comes after a line was typed at a prompt, until this text does."""
        self.until_prompt()
        begin = len(self.seen)
        self.type(f"{line}\r")
        return self.until(text, begin)

    def until_prompt(self, since: int = 0) -> None:
        """Return when a line can be typed, at a prompt that came after this place in `seen`."""
        end = time.monotonic() + PATIENCE
        while self.seen.rfind(READS) <= max(since, self.seen.rfind(READ)):
            assert self._more() and time.monotonic() < end, f"it does not ask: {self.seen}"

    def until_answering(self, since: int) -> None:
        """Return when the line that was typed is read, and something of an answer to it has come."""
        end = time.monotonic() + PATIENCE
        while not re.search(rf"{re.escape(READ)}[^\x1b]+ ", self.seen[since:]):
            assert self._more() and time.monotonic() < end, f"it does not answer: {self.seen[since:]}"

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        end = time.monotonic() + PATIENCE
        while self._more():
            assert time.monotonic() < end, f"it does not end: {self.seen[-500:]}"
        return self.process.wait(PATIENCE)

    def _more(self) -> bool:
        """Read what there is within a moment; False where nothing can come any more."""
        if not select.select([self._ours], [], [], 0.2)[0]:
            return self.process.poll() is None
        try:
            came = os.read(self._ours, 1 << 16)
        except OSError:  # the other end is closed
            return False
        if WHERE in came:
            os.write(self._ours, THERE)
        self._raw += came
        self.seen = self._raw.decode("utf-8", "ignore")
        return True

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_ending: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
