"""What has come of a request to a scheduler."""

import time
from collections import deque

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.generation.drafting import Drafter
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.sequence import Sequence


class Ticket:
    """A request that was added. `sequence` is None while it waits; it ends with a `response`, or an `error` that says why it
    failed. `share`: the seconds of passes that were its own."""

    def __init__(self, request: Request, room: int, drafter: Drafter | None, model: DraftModel | None):
        self.request, self.room, self.drafter, self.model = request, room, drafter, model
        self.began = time.perf_counter()
        self.sequence: Sequence | None = None
        self.response: Response | None = None
        self.error: ItrexChatError | None = None
        self.share = 0.0
        self.cancelled = False
        self._pieces: deque[str] = deque()

    @property
    def done(self) -> bool:
        return self.response is not None or self.error is not None

    @property
    def tokens(self) -> int:
        """Tokens that it may come to in all."""
        return len(self.request.prompt) + self.room

    @property
    def late(self) -> bool:
        return self.request.seconds is not None and time.perf_counter() - self.began > self.request.seconds

    def taken_pieces(self) -> list[str]:
        """The text that came since the last call, in pieces; from any thread."""
        return [self._pieces.popleft() for _piece in range(len(self._pieces))]

    def say(self, pieces: list[str]) -> None:
        self._pieces += pieces
