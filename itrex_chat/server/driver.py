"""The one thread of a loaded model: it opens the session, makes the passes, and hands over what has come to asyncio."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _
from itrex_chat.generation.request import Request, TokenLogprob
from itrex_chat.generation.response import Response
from itrex_chat.generation.ticket import Ticket

if TYPE_CHECKING:
    from itrex_chat.engines.session import Session
    from itrex_chat.generation.scheduler import Scheduler

STUCK = 0.01  # seconds until requests that cannot begin yet are looked at again


@dataclass(frozen=True)
class Piece:
    """What has come of an answer since the piece before it: text, and the tokens where log-probabilities are wanted; with the
    first tokens those of the `prompt`, where they are wanted, too."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    prompt: tuple[TokenLogprob, ...] = ()


Coming = asyncio.Queue[tuple[int, Piece | Response | Exception]]


@dataclass(eq=False)
class Answer:
    """A ticket, and the queue to which what comes of it goes under its `number`: pieces, and last the Response or an error."""

    ticket: Ticket
    number: int
    queue: Coming
    told: int = field(default=0)  # tokens


class Turns:
    """A lock that is passed on in the order in which it was asked for: passes of several models take turns."""

    def __init__(self) -> None:
        self._lock, self._waiting, self._taken = threading.Lock(), deque[threading.Event](), False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class Driver:
    """Opens a session by `opening` in a thread of its own and serves it there until it is closed.

    `passed` is told the tokens of each pass, `failed` what ended the thread, if anything did: then it is `broken`.
    """

    scheduler: "Scheduler"
    session: "Session"

    def __init__(
        self,
        opening: Callable[[], "Session"],
        turns: Turns,
        passed: Callable[[int], None],
        failed: Callable[[BaseException], None],
    ):
        self._opening, self._turns, self._passed, self._failed = opening, turns, passed, failed
        self._loop = asyncio.get_running_loop()
        self._opened: Future[None] = Future()
        self._wake = threading.Event()
        self._closing = self.broken = False
        self._answers: dict[Ticket, Answer] = {}
        self._thread = threading.Thread(target=self._run, name="passes", daemon=True)
        self._thread.start()

    async def started(self) -> None:
        """Once the session is open. Raises what opening raised."""
        await asyncio.wrap_future(self._opened)

    def add(self, request: Request, number: int, queue: Coming) -> Answer:
        """Have a request answered; from any thread. Raises GenerationError, Busy."""
        answer = Answer(self.session.add(request), number, queue)
        self._answers[answer.ticket] = answer
        self._wake.set()
        return answer

    def cancel(self, answer: Answer) -> None:
        if self._answers.pop(answer.ticket, None):
            answer.ticket.cancelled = True  # not by the scheduler's lock: the event loop waits for nobody
            self._wake.set()

    def stop(self) -> None:
        """End what goes on, as it is, without waiting for that."""
        for ticket in list(self._answers):
            ticket.cancelled = True
        self._wake.set()

    async def close(self) -> None:
        """End what goes on, and let go of the model."""
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            self.session = self._opening()
            self.scheduler = self.session.scheduler()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            self._serve()
        except BaseException as error:
            self.broken = True
            self._failed(error)
        finally:
            with contextlib.suppress(Exception):
                self.session.close()
            self._end_all()

    def _serve(self) -> None:
        scheduler = self.scheduler
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            while (scheduler.going or scheduler.waiting) and not self._closing:
                with self._turns:
                    scheduler.advance()
                self._hand_over()
                if scheduler.going:
                    self._passed(scheduler.rows)
                elif scheduler.waiting:
                    time.sleep(STUCK)
            self._hand_over()

    def _hand_over(self) -> None:
        found: list[tuple[Answer, Piece | Response | Exception]] = []
        for ticket, answer in list(self._answers.items()):
            done = ticket.done
            text, sequence = "".join(ticket.taken_pieces()), ticket.sequence
            tokens = tuple(sequence.logprobs[answer.told :]) if sequence else ()
            prompt = tuple(sequence.prompt_logprobs) if sequence and tokens and not answer.told else ()
            answer.told += len(tokens)
            if text or tokens:
                found.append((answer, Piece(text, tokens, prompt)))
            if done and (ending := ticket.error or ticket.response):
                found.append((answer, ending))
                self._answers.pop(ticket, None)
        self._put(found)

    def _end_all(self) -> None:
        ending = EngineError(_("The model was unloaded before the answer was complete; ask again."))
        self._put([(answer, ending) for answer in self._answers.values()])
        self._answers.clear()

    def _put(self, found: list[tuple[Answer, Piece | Response | Exception]]) -> None:
        if found:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_deliver, found)


def _deliver(found: list[tuple[Answer, Piece | Response | Exception]]) -> None:
    for answer, piece in found:
        answer.queue.put_nowait((answer.number, piece))
