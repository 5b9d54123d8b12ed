"""Files over several connections at once, ranges of large ones too, taken up again after whatever happens to the line.

Each connection takes the next range that nobody has (`ranges.py`). One thread hashes
what has come, in order, from the system's cache. What fails for a moment is tried again
after a pause that grows and is never the same; only when no byte has come for
`Pace.patience` seconds it is given up.
"""

import contextlib
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

from itrex_chat.foundation.language import _
from itrex_chat.sources import failures
from itrex_chat.sources.failures import HubFailure, damaged
from itrex_chat.sources.meter import Meter
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.partial import Partial
from itrex_chat.sources.ranges import Ranges, Span
from itrex_chat.sources.web import Web, body_of, number, of_modelscope, origin

CHUNK = 1 << 18  # bytes
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
DOUBTS = 4  # tries of what a hub denies although it has listed it
DOUBTFUL = (failures.REPOSITORY, failures.MISSING_FILE, failures.STRANGE)


class Stopped(Exception):
    """Another thread has ended the transfer."""


class Transfer:
    """Brings the files of `listed` (sizes and digests by name) into a folder.

    `address` says where a file is and `secret` what shows who asks. `run` gives each file's SHA-256; it raises HubFailure,
    SourceError for wrong content, OSError of the disk.
    """

    def __init__(
        self,
        folder: Path,
        listed: Mapping[str, dict],
        address: Callable[[str], str],
        secret: Mapping[str, str],
        pace: Pace,
        who: str,
    ):
        self.pace, self.address, self.secret, self.who = pace, address, secret, who
        # Small ones first: they are many, and a connection that has none of them goes on with the large ones.
        ordered = sorted(listed, key=lambda name: (listed[name]["size"] > pace.range, name))
        self.partials = [Partial(folder, name, listed[name]["size"], listed[name]["digest"]) for name in ordered]
        self.changed = threading.Condition()
        self.ranges = Ranges(self.partials, pace)
        self.found: dict[str, str] = {}  # where the hub sent us for a file
        self.digests: dict[str, str] = {}
        self.received = self.hashed = 0
        self.allowed = float(pace.connections)  # fewer for a while when the hub asks to come back
        self.going = 0  # requests
        self.not_before = 0.0
        self.trouble: HubFailure | None = None
        self.error: BaseException | None = None
        self.stopped = False

    def run(self) -> dict[str, str]:
        hashing = None
        try:
            here = self.ranges.begin()
            threads = [
                threading.Thread(target=self._bring, daemon=True) for _number in range(self.ranges.connections())
            ]
            threads.append(hashing := threading.Thread(target=self._hash, daemon=True))
            for thread in threads:
                thread.start()
            with Meter(sum(partial.size for partial in self.partials), here, len(self.partials)) as meter:
                self._watch(meter, here)
            return self.digests
        finally:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()
            with self.changed:  # what has come is noted
                for span in self.ranges.coming:
                    with contextlib.suppress(OSError):
                        self.ranges.note(span)
            if hashing is not None:
                hashing.join()
            for partial in self.partials:
                if partial.name not in self.digests:
                    partial.close()

    def _watch(self, meter: Meter, here: int) -> None:
        """Until all is there: show how it goes, and end it when nothing comes."""
        moment, seen = time.monotonic(), (0, 0)
        while True:
            with self.changed:
                if self.error is None and len(self.digests) < len(self.partials):
                    self.changed.wait(0.2)
                now, state = time.monotonic(), (self.received, self.hashed)
                if self.error is not None:
                    raise self.error
                if len(self.digests) == len(self.partials):
                    meter.show(here + self.received, len(self.digests))
                    return
                if state != seen:
                    moment, seen, self.trouble = now, state, None if state[0] != seen[0] else self.trouble
                silent = now - max(moment, self.not_before)
                trouble = self.trouble or HubFailure(
                    failures.UNREACHABLE, _("no answer within {seconds} seconds", seconds=round(silent))
                )
                comes = self.ranges.coming or any(self.ranges.free.values())  # else the disk is what takes long
                if comes and silent > self.pace.patience:
                    raise trouble
            meter.show(here + self.received, len(self.digests))
            if self.trouble and now - moment > 3 * self.pace.first_pause:
                meter.waits(self.who, self.trouble.reason or f"HTTP {self.trouble.status}", self.pace.patience)

    def _bring(self) -> None:
        """One connection's work."""
        try:
            web = Web(self.pace.silence)
            while (span := self._next()) is not None:
                self._bring_span(web, span)
                with self.changed:
                    self.ranges.coming.remove(span)
                    self.allowed = min(self.pace.connections, self.allowed + 1 / self.allowed)
        except Stopped:
            pass
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
                self.changed.notify_all()

    def _bring_span(self, web: Web, span: Span) -> None:
        tries = doubts = 0
        while span.at < span.end:
            self._wait_until_allowed()
            before = span.at
            try:
                try:
                    self._request(web, span)
                finally:
                    with self.changed:
                        self.going -= 1
            except HubFailure as failure:
                if not failure.passing:
                    doubts += 1
                    if failure.kind not in DOUBTFUL or doubts > DOUBTS:
                        if failure.kind == failures.REPOSITORY:  # it has been listed
                            failure.kind = failures.MISSING_FILE
                        failure.reason = span.partial.name if failure.kind == failures.MISSING_FILE else failure.reason
                        raise
                came = span.at - before
                tries = 0 if came >= self.pace.piece // 4 else 1 if came else tries + 1
                self._pause(failure, tries)

    def _pause(self, failure: HubFailure, tries: int) -> None:
        if failure.wait > self.pace.patience:
            raise failure
        pause = min(self.pace.longest_pause, self.pace.first_pause * 2 ** min(tries, 16) / 2) if tries else 0
        until = time.monotonic() + max(pause * random.uniform(0.5, 1), 0)
        with self.changed:
            self.trouble = failure
            if failure.kind == failures.BUSY:
                self.allowed = max(1.0, self.allowed / 2)
            if failure.wait:
                self.not_before = max(self.not_before, time.monotonic() + failure.wait)
            while not self.stopped and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
            if self.stopped:
                raise Stopped

    def _wait_until_allowed(self) -> None:
        with self.changed:
            while not self.stopped and (self.going >= self.allowed or time.monotonic() < self.not_before):
                self.changed.wait(0.1)
            if self.stopped:
                raise Stopped
            self.going += 1

    def _next(self) -> Span | None:
        with self.changed:
            while not self.stopped:
                if (span := self.ranges.next()) is not None or not self.ranges.coming:
                    return span
                self.changed.wait(0.5)
        return None

    def _request(self, web: Web, span: Span) -> None:
        partial = span.partial
        whole = (span.at, span.end) == (0, partial.size)
        headers = {} if whole else {"Range": f"bytes={span.at}-{span.end - 1}"}
        elsewhere = self.found.get(partial.name)
        address = elsewhere or self.address(partial.name)
        try:
            with web.get(address, {} if elsewhere else self.secret, headers) as response:
                if not elsewhere and origin(response.url) != origin(address):
                    self.found[partial.name] = response.url
                at = self._start(response, span)
                try:
                    self._read(response, span, at)
                finally:
                    with self.changed:
                        if not self.stopped:
                            self.ranges.note(span)
                            self.changed.notify_all()
        except HubFailure as failure:
            if failure.status == 416:
                raise damaged(partial.name) from None
            if elsewhere:  # the address may have run out, or its host be down: the hub is asked anew
                self.found.pop(partial.name, None)
                failure.kind = failure.kind if failure.passing else failures.BUSY
            raise

    def _start(self, response: requests.Response, span: Span) -> int:
        """The byte that an answer begins with. Raises HubFailure, and SourceError where the file is another one."""
        partial = span.partial
        if told := CONTENT_RANGE.match(response.headers.get("Content-Range", "")):
            if told[3] not in ("*", str(partial.size)):
                raise damaged(partial.name)
            if int(told[1]) > span.at:
                raise HubFailure(failures.UNREACHABLE, _("another range came"))
            partial.ranged = True
            return int(told[1])
        length = number(response.headers.get("Content-Length"))
        if length not in (None, partial.size) and "Content-Encoding" not in response.headers:
            if "html" in response.headers.get("Content-Type", "") or length < 1 << 16:
                body = body_of(response)
                if body.get("Success") is False:
                    raise of_modelscope(body, 200) or HubFailure(failures.BUSY, status=200)
                if "html" in response.headers.get("Content-Type", ""):
                    raise HubFailure(failures.STRANGE, _("a page came in place of {name}", name=partial.name))
            raise damaged(partial.name)
        if (span.at, span.end) != (0, partial.size):
            with self.changed:
                self.received -= self.ranges.take_whole(span)
        return 0

    def _read(self, response: requests.Response, span: Span, at: int) -> None:
        """Write what comes from byte `at` on; what is there already is passed over."""
        while span.at < span.end:
            data = response.raw.read1(CHUNK, decode_content=False)
            if not data:
                raise HubFailure(failures.UNREACHABLE, _("the connection was cut"))
            passed = min(max(span.at - at, 0), len(data))
            at += len(data)
            data = data[passed:]
            with self.changed:
                if self.stopped:
                    raise Stopped
                data = data[: max(span.end - span.at, 0)]
                if data:
                    span.partial.write(span.at, data)
                    span.crc = zlib.crc32(data, span.crc)
                    span.at += len(data)
                    self.received += len(data)
                    if span.at - span.noted >= self.pace.piece:
                        self.ranges.note(span)
                        self.changed.notify_all()
        if response.raw.length_remaining == 0:
            response.raw.read1(1)  # the end is seen, and the connection is used again

    def _hash(self) -> None:
        """Hash what comes, and give files that are complete their names."""
        try:
            waiting = list(self.partials)
            while waiting and not self.stopped:
                done = 0
                for partial in list(waiting):
                    done += (count := partial.hash_on())
                    if partial.is_read:
                        digest = partial.finish()
                        waiting.remove(partial)
                        with self.changed:
                            self.digests[partial.name] = digest
                            self.changed.notify_all()
                    self.hashed += count
                if not done and waiting:
                    with self.changed:
                        if not any(partial.prefix > partial.hashed or partial.is_read for partial in waiting):
                            self.changed.wait(0.2)
        except BaseException as error:
            with self.changed:
                self.error = self.error or error
                self.changed.notify_all()
