"""The log: one line of JSON for each request and for what went wrong, never a text of a request or an answer."""

import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import as_json
from itrex_chat.foundation.language import _
from itrex_chat.server.errors import SERVER, ApiError
from itrex_chat.server.metrics import Metrics
from itrex_chat.server.streaming import encoded


def note(**fields: Any) -> None:
    """A line of the log."""
    told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | fields
    print(as_json(told), file=sys.stderr, flush=True)


def note_failure(event: str, error: BaseException, **fields: Any) -> None:
    """What went wrong: sentences of ours as they are, of other errors only the kind and the places."""
    if isinstance(error, ItrexChatError):
        note(event=event, error=str(error), **fields)
        return
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    note(event=event, error=type(error).__name__, places=places, **fields)


class Lines(logging.Handler):
    """What uvicorn says, as lines of ours; without its arguments, which may be a client's."""

    def emit(self, record: logging.LogRecord) -> None:
        note(event="server", level=record.levelname.lower(), message=str(record.msg))


class Journal:
    """The outermost layer: gives each request its `record`, logs it at the end, and turns what nobody foresaw into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        record: dict[str, Any] = {}
        scope.setdefault("state", {})["record"] = record

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.in_flight += 1
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            note_failure("mistake", error)
            if not status:
                await _mistaken(sending)
        finally:
            self.in_flight -= 1
            route, seconds = getattr(scope.get("route"), "path", "other"), time.perf_counter() - began
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
            note(event="request", method=method, route=route, status=status, seconds=round(seconds, 4), **record)


async def _mistaken(send: Send) -> None:
    error = ApiError(500, _("The server has made a mistake; its log says where."), kind=SERVER)
    await answer(error, send)


async def answer(error: ApiError, send: Send) -> None:
    """Send an error and close the connection, for what the request has besides may not have been read."""
    body = encoded(error.content())
    head = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in error.headers().items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
