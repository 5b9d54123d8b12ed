"""Replies that are made while the client waits: one JSON object or server-sent events, and no longer than it stays."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from fastapi.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.server import errors
from itrex_chat.server.errors import ApiError

KEEP_ALIVE = 15.0  # seconds without an event, after which a comment says that there will be one
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Gone(Exception):
    """The client has closed its connection."""


def encoded(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Reply(HttpResponse):
    """What `made` yields: the one JSON object of a reply, or with `stream` its events; (name, data) has a name, data that is a
    text is sent as it is. An error before the first is raised, so that it has its status; a later one is the last event."""

    def __init__(self, made: AsyncGenerator[Any, None], stream: bool):
        super().__init__()
        self._made, self._stream = made, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_until_gone(receive))
        try:
            first = await _unless(gone, anext(self._made, None))
            if self._stream:
                await self._events(first, gone, send)
            else:
                body = encoded(first)
                head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": body})
        except (Gone, OSError):
            scope["state"]["record"]["gone"] = True
        finally:
            gone.cancel()
            await self._made.aclose()

    async def _events(self, first: Any, gone: "asyncio.Task[None]", send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        event, coming = first, None
        while event is not None:
            await send({"type": "http.response.body", "body": _event(event), "more_body": True})
            coming = asyncio.ensure_future(anext(self._made, None))
            try:
                while not coming.done():
                    await asyncio.wait({coming, gone}, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                    if gone.done():
                        raise Gone
                    if not coming.done():
                        await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
                event = coming.result()
            except ApiError as error:
                await send({"type": "http.response.body", "body": _event(error.content()), "more_body": True})
                break
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
        await send({"type": "http.response.body", "body": b""})


def _event(event: Any) -> bytes:
    name, data = event if isinstance(event, tuple) else ("", event)
    text = data.encode() if isinstance(data, str) else encoded(data)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + text + b"\n\n"


async def _unless(gone: "asyncio.Task[None]", work: Awaitable[Any]) -> Any:
    """What comes of `work`, unless the client goes. Raises Gone, and ApiError for errors of ours."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    except ItrexChatError as error:
        raise errors.of(error) from None
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):
                await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
