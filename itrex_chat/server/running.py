"""The process: a socket, uvicorn, and an end that lets answers end."""

import asyncio
import logging
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from itrex_chat.foundation import files, progress
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.server.app import application
from itrex_chat.server.errors import unavailable
from itrex_chat.server.journal import Journal, Lines, answer
from itrex_chat.server.limits import Limits
from itrex_chat.server.safety import Access, Guard
from itrex_chat.server.service import Service

IDLE = 60  # seconds that a connection may be open without a request
LARGEST_HEAD = 32 << 10  # bytes


def listening(host: str, port: int) -> socket.socket:
    """Raises RunError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise RunError(
            _(
                "{host}:{port} cannot be listened on: {reason}. Choose another --port (0 takes a free one) or --host.",
                host=host,
                port=port,
                reason=files.why(error),
            )
        ) from None
    except (OverflowError, UnicodeError):
        raise RunError(_("{host}:{port} is no address to listen on.", host=host, port=port)) from None


def serve(service: Service, access: Access, at: socket.socket) -> None:
    """Answer requests until the process is told to end."""
    progress.silence()
    journal = Journal(Guard(application(service), service, access), service.metrics)
    for name in ("uvicorn.error", "uvicorn.asgi", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Lines(logging.WARNING)], False
    config = uvicorn.Config(
        journal,
        loop="asyncio",
        http=_bounded(service.limits, Journal(_crowded, service.metrics)),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_graceful_shutdown=5,
    )
    _Server(config, service, journal).run([at])


async def _crowded(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(unavailable(_("There are too many connections; try again later."), "too_many_connections"), send)


def _bounded(limits: Limits, crowded: ASGIApp) -> type[H11Protocol]:
    class Bounded(H11Protocol):
        """Closes connections on which a request does not begin in time, or its head does not end, and has those that are
        too many answered by `crowded`. What is written is sent at once: asyncio does not see to that for sockets of
        create_server, and a reply would wait 40 ms for the client to acknowledge its head."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.app = crowded
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._expect_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._between_requests():
                self._expect_request()

        def _between_requests(self) -> bool:
            cycle: Any = self.cycle
            return cycle is None or cycle.response_complete

        def _expect_request(self) -> None:
            self.loop.call_later(limits.head_seconds, self._close_without, self.cycle)

        def _close_without(self, before: Any) -> None:
            if self.cycle is before and self._between_requests() and not self.transport.is_closing():
                self.transport.close()

    return Bounded


class _Server(uvicorn.Server):
    """The first signal to end lets answers end, and takes no more requests; a second one does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service, journal: Journal):
        super().__init__(config)
        self._service, self._journal = service, journal
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._ending = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        until = time.monotonic() + self._service.limits.grace
        while self._journal.in_flight and time.monotonic() < until and not self.should_exit:
            await asyncio.sleep(0.05)
        self._service.models.cancel_all()
        until = time.monotonic() + 2
        while self._journal.in_flight and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self.should_exit = True
