"""What is refused before a route sees it: strangers, pages of other origins, bodies without end."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itrex_chat.foundation.language import _
from itrex_chat.server.access import Access
from itrex_chat.server.errors import INVALID, ApiError, unavailable
from itrex_chat.server.journal import answer
from itrex_chat.server.limits import Limits
from itrex_chat.server.page import PATHS as PAGE
from itrex_chat.server.service import Service

OPEN = {"/health", "/health/live", "/health/ready", *PAGE}  # tell nothing but that the server is there


class Guard:
    """Lets a request through with the whole of its body, or answers it with an error."""

    def __init__(self, app: ASGIApp, service: Service, access: Access):
        self._app, self._service, self._access = app, service, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._service.limits

        async def sending(message: Message) -> None:
            await asyncio.wait_for(send(message), limits.sending)

        try:
            self._check(scope)
            body = await _body(scope, receive, limits)
        except ApiError as error:
            await answer(error, sending)
            return
        except ConnectionError:
            return
        try:
            await self._app(scope, _again(body, receive), sending)
        except TimeoutError:
            scope["state"]["record"]["gone"] = True  # it does not read

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self._access.knows_host(host):
            raise ApiError(
                403,
                _("This server does not go by that name; start it with --allow-host NAME if it shall."),
                code="unknown_host",
            )
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise ApiError(403, _("Pages of other origins may not ask this server."), code="foreign_origin")
        if scope["method"] != "GET" and headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, _("Pages of other origins may not ask this server."), code="foreign_origin")
        if scope["path"] in OPEN:
            return
        if self._access.keys and not self._access.knows_key(headers.get(b"authorization", "")):
            raise ApiError(401, _("The API key is missing or wrong."), code="invalid_api_key", kind=INVALID)
        if self._service.draining:
            raise unavailable(_("The server stops; ask again later."), "shutting_down")


async def _body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body. Raises ApiError for one that is too large or too slow, ConnectionError where the client goes."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    too_large = ApiError(413, _("The body is larger than {most} bytes.", most=limits.body), code="body_too_large")
    if int(declared) > limits.body:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError
                size += len(part := message.get("body", b""))
                if size > limits.body:
                    raise too_large
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, _("The body did not come in time."), code="timeout") from None


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, and then what comes behind it."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
