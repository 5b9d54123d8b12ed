"""Ctrl-C while an answer is made: it ends the answer, not the program."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Stop:
    """In a `with` statement, the first interrupt sets `asked`; a second one is a KeyboardInterrupt, for whoever does not look."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
