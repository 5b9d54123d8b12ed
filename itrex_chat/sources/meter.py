"""One progress for a download: bytes of all files, rate, time left, files. A bar on a terminal, else a line now and then."""

import sys
import time
from types import TracebackType

from itrex_chat.foundation import progress
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting, readable

LINE_EVERY, LINE_SOONEST, LINE_SHARE = 30.0, 5.0, 0.05  # seconds, seconds, of the whole
RATE_OVER = 20.0  # seconds that a rate is the mean of


class Meter:
    """Shows a download of `total` bytes in `count` files, of which `here` bytes were there before. A context manager."""

    def __init__(self, total: int, here: int, count: int):
        self.total, self.here, self.count = total, here, count
        self._bar = progress.bar(_("downloading"), total, initial=here) if sys.stderr.isatty() else None
        self._silent = progress.is_silent()
        self._seen = [(time.monotonic(), here)]
        self._told, self._told_at = here, time.monotonic()
        self._waits = False

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, files: int) -> None:
        """So many bytes and whole files are there now."""
        now = time.monotonic()
        if done != self._seen[-1][1]:
            self._waits = False
            self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_OVER:
            self._seen.pop(0)
        if self._bar is not None:
            self._bar.set_postfix_str(_("{files} of {count} files", files=files, count=self.count), refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
            return
        since = now - self._told_at
        if since >= LINE_EVERY or since >= LINE_SOONEST and done - self._told >= LINE_SHARE * self.total:
            self._told, self._told_at = done, now
            self._say(self._line(now, done, files))

    def waits(self, who: str, reason: str, patience: float) -> None:
        """Say once that nothing comes and why."""
        if not self._waits:
            self._waits = True
            self._say(
                _(
                    "{hub} does not answer ({reason}); trying again for {time}.",
                    hub=who,
                    reason=reason,
                    time=lasting(patience),
                )
            )

    def _line(self, now: float, done: int, files: int) -> str:
        began, before = self._seen[0]
        rate = (done - before) / max(now - began, 0.001)
        return _(
            "{percent:.0f} %: {done} of {total}, {files} of {count} files, {rate}/s, {left} left",
            percent=100 * done / max(self.total, 1),
            done=readable(done),
            total=readable(self.total),
            files=files,
            count=self.count,
            rate=readable(rate),
            left=lasting((self.total - done) / rate) if rate else "?",
        )

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._silent:
            tell(line, file=sys.stderr)
