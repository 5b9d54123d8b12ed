"""What the page asks beside OpenAI's API: to keep votes and runs, and to share comparisons. Requests name answers that the server
has given; their texts are the server's own."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import Field

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import _
from itrex_chat.server.errors import ApiError, unavailable
from itrex_chat.server.journal import note_failure
from itrex_chat.server.protocol import Strict
from itrex_chat.server.service import Service

MOST_ROUNDS = 200
Name = Annotated[str, Field(max_length=100)]
Done = TypeVar("Done")


class VoteRequest(Strict):
    """`answers`: names of chat completions, all to one question; `best`: the place of the best of them, or a word for all."""

    answers: Annotated[list[Name], Field(min_length=2, max_length=16)]
    best: Annotated[int, Field(ge=0, lt=16)] | Literal["equal", "bad"]
    blind: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        if isinstance(self.best, int):
            return (self.best,)
        return tuple(range(len(self.answers))) if self.best == "equal" else ()


class RoundsRequest(Strict):
    """The answers to each question of a conversation, by their names."""

    rounds: Annotated[
        list[Annotated[list[Name], Field(min_length=1, max_length=16)]], Field(min_length=1, max_length=MOST_ROUNDS)
    ]


def router(service: Service) -> APIRouter:
    found = APIRouter(prefix="/page", include_in_schema=False)
    turn = asyncio.Lock()

    async def aside(work: Callable[[], Done]) -> Done:
        """Do what writes in a thread, one at a time. Raises ApiError."""
        async with turn:
            try:
                return await asyncio.to_thread(work)
            except ItrexChatError as error:
                note_failure("collecting", error)
                raise unavailable(_("This cannot be kept or read; the server's log says why."), "not_kept") from None

    @found.post("/votes")
    async def vote(asked: VoteRequest, request: Request) -> dict[str, Any]:
        answers = service.kept.find(asked.answers)
        if asked.places and max(asked.places) >= len(answers):
            raise ApiError(400, _("best is the place of an answer, from 0 on, or equal or bad."), "best")
        name, votes = await aside(lambda: service.collected.vote(answers, asked.places, asked.blind))
        request.state.record["run"] = name
        return {"run": name, "votes": [dataclasses.asdict(each) for each in votes]}

    @found.post("/runs")
    async def write(asked: RoundsRequest, request: Request) -> dict[str, Any]:
        rounds = [service.kept.find(names) for names in asked.rounds]
        names = await aside(lambda: service.collected.write(rounds))
        request.state.record["run"] = names[0]
        return {"runs": names}

    @found.post("/shares")
    async def share(asked: RoundsRequest) -> dict[str, Any]:
        rounds = [service.kept.find(names) for names in asked.rounds]
        add = lambda: service.shares.add([(answers, service.collected.voted(answers)) for answers in rounds])
        return {"name": await aside(add)}

    @found.get("/shares/{name}")
    async def shared(name: str) -> dict[str, Any]:
        return await aside(lambda: service.shares.find(name))

    return found
