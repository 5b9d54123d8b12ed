"""One request to a server that nobody vouches for, and its reply: bounded in bytes and in time, sent to no other host."""

import functools
import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from socket import socket
from typing import Any

from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import for_terminal
from itrex_chat.foundation.language import _

SILENCE, LARGEST, HOPS = 120, 4 << 20, 5  # seconds without a byte; bytes of a reply; redirects within a host
KEEPING_THE_METHOD = (307, 308)


class TooLong(Exception):
    """A reply that has not come to its end in the time that it was given."""


@dataclass(frozen=True)
class Reply:
    """What a server answered, whatever its status says."""

    status: int
    content: bytes


def post(address: str, headers: dict[str, str], content: bytes, seconds: float) -> Reply:
    """The reply to a POST, all of it within `seconds`.

    Raises OSError, ValueError or http.client.HTTPException for a server that cannot be reached or understood, TooLong
    for one that takes too long, and RunError for a reply that is too large or that points to another server.
    """
    until, target = time.monotonic() + seconds, address
    for _hop in range(HOPS):
        request = urllib.request.Request(target, content, headers, method="POST")
        with _opener(until).open(request, timeout=min(SILENCE, seconds)) as response:
            if not 300 <= response.status < 400:
                return Reply(response.status, _bounded(response, address))
            target = _next(address, target, response)
    raise RunError(_("{address} answers with one redirect after the other.", address=address))


def origin(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address. Raises ValueError for a port that is no number."""
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _bounded(response: http.client.HTTPResponse, address: str) -> bytes:
    content = response.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RunError(
            _("{address} answered with more than {size} MB, which no answer is.", address=address, size=LARGEST >> 20)
        )
    return content


def _next(address: str, asked: str, response: http.client.HTTPResponse) -> str:
    """Where a redirect points, if the request may go there as it is: the same server, the same method."""
    location = " ".join((response.headers.get("Location") or "").split())
    try:
        target = urllib.parse.urljoin(asked, location)
        if (
            location
            and response.status in KEEPING_THE_METHOD
            and origin(target) == origin(address)
            and "@" not in target
        ):
            return target
        shown = _without_secrets(target) if location else "?"
    except ValueError:
        shown = "?"
    raise RunError(
        _(
            "{address} points to {target} (HTTP {status}); nothing was sent there. Name that address with --endpoint if "
            "it is the right one.",
            address=address,
            target=shown,
            status=response.status,
        )
    )


def _without_secrets(address: str) -> str:
    """An address without what can be a password, credentials and the query, and without what steers a terminal."""
    parts = urllib.parse.urlsplit(address)
    return for_terminal(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _opener(until: float) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Plain(until), _Secure(until), _AnyStatus())


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Errors and redirects are replies like others; urllib would go to any host with our headers."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, until: float):
        super().__init__()
        self._until = until

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_connection, http.client.HTTPConnection, self._until), request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, until: float):
        super().__init__()
        self._until = until

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_connection, http.client.HTTPSConnection, self._until), request)


def _connection(kind: Any, until: float, host: str, **options: Any) -> http.client.HTTPConnection:
    made = kind(host, **options)
    made.response_class = functools.partial(_Response, until)
    return made


class _Response(http.client.HTTPResponse):
    """A reply whose status, headers and content must all have come at a certain time."""

    def __init__(self, until: float, sock: socket, *arguments: Any, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(until, sock))


class _Until(io.RawIOBase):
    """A socket that is read until a certain time, and no longer than SILENCE for some bytes."""

    def __init__(self, until: float, sock: socket):
        self._until, self._sock = until, sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TooLong
        self._sock.settimeout(min(SILENCE, left))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if time.monotonic() >= self._until:
                raise TooLong from None
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()
