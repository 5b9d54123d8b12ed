"""Requests to a hub and to the hosts that it sends us to: proxies, certificates, redirects, and failures by their kind.

The access token goes to the hub's own address and to no other host.
"""

import contextlib
import email.utils
import functools
import http.cookiejar
import json
import math
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from itrex_chat import __version__
from itrex_chat.foundation.language import _
from itrex_chat.sources import failures
from itrex_chat.sources.failures import HubFailure, words

HEADERS = {"User-Agent": f"itrex_chat/{__version__}", "Accept-Encoding": "identity"}
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 10
LARGEST_ANSWER = 64 << 20  # bytes of a listing
LARGEST_COMPLAINT = 64 << 10  # bytes of an error's body
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
COME_BACK = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)


class Web:
    """Connections of one thread: they are kept open and used again. `timeout` is for connecting and for each silence, in seconds."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._session = requests.Session()
        self._session.headers = requests.structures.CaseInsensitiveDict(HEADERS)
        self._session.auth = _as_it_is
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("https://", _Trusting(trusted()))

    @contextlib.contextmanager
    def get(
        self, address: str, secret: Mapping[str, str], headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Iterator[requests.Response]:
        """The answer at the end of redirects, its body unread; `secret` are headers for the address's own host.

        Whatever goes wrong until the block ends is a HubFailure, as are statuses of 400 and above.
        """
        home, response, given = origin(address), None, False
        try:
            for _number in range(MOST_REDIRECTS):
                told = dict(headers or {}) | (dict(secret) if origin(address) == home else {})
                response = self._session.request(
                    method,
                    address,
                    headers=told,
                    stream=True,
                    allow_redirects=False,
                    timeout=(min(self.timeout, 10), self.timeout),
                    verify=requests.certs.where(),  # and not what requests finds in the environment, which would be all then
                    proxies=_proxies(address),
                )
                onward = response.headers.get("Location")
                # A file's head has its size and digest before the redirect.
                if (
                    response.status_code not in REDIRECTS
                    or not onward
                    or "X-Linked-Size" in response.headers
                    and method == "HEAD"
                ):
                    break
                response.content  # noqa: B018  so that the connection can be used again
                address = urljoin(address, onward)
            else:
                raise HubFailure(failures.STRANGE, f"more than {MOST_REDIRECTS} redirects")
            if response.status_code >= 400:
                refused = refusal(response, bool(secret))
                if origin(address) != home and refused.status != 416:  # another host knows nothing of repositories
                    refused.kind = failures.BUSY
                raise refused
            given = True
            yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _failure(error) from error
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise _failure(error) from error
            raise
        except ValueError as error:  # of an address that the environment or a hub gives
            if given:
                raise
            raise HubFailure(
                failures.PROXY if "SOCKS" in str(error) else failures.STRANGE, _without_login(words(error))
            ) from error
        finally:
            if response is not None:
                response.close()

    def json(self, address: str, secret: Mapping[str, str]) -> Any:
        """What JSON the address gives."""
        with self.get(address, secret) as response:
            body = response.raw.read(LARGEST_ANSWER + 1, decode_content=True)
            expected = number(response.headers.get("Content-Length"))
            if expected is not None and len(body) < expected and "Content-Encoding" not in response.headers:
                raise HubFailure(failures.UNREACHABLE, "the answer ended early")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HubFailure(failures.STRANGE, words(error)) from None


def number(told: str | None) -> int | None:
    """A size in a header; None for anything else."""
    return int(told) if told and re.fullmatch("[0-9]{1,18}", told) else None


def body_of(response: requests.Response) -> dict:
    """The JSON object in an answer that complains, or an empty one."""
    with contextlib.suppress(
        ValueError, RecursionError, requests.RequestException, urllib3.exceptions.HTTPError, OSError
    ):
        found = json.loads(response.raw.read(LARGEST_COMPLAINT, decode_content=True))
        return found if isinstance(found, dict) else {}
    return {}


def refusal(response: requests.Response, with_token: bool) -> HubFailure:
    """What a status of 400 and above means."""
    status, code, body = response.status_code, response.headers.get("X-Error-Code", ""), body_of(response)
    if status in COME_BACK:
        return HubFailure(failures.BUSY, status=status, wait=_wait(response.headers))
    shown = failures.WITH_TOKEN if with_token else ""
    complaint = body.get("Message") or body.get("error") or response.headers.get("X-Error-Message") or ""
    if found := of_modelscope(body, status):
        found.reason = shown if found.kind == failures.GATED else found.reason
        return found
    if code == "RevisionNotFound":
        return HubFailure(failures.REVISION, status=status)
    if code == "EntryNotFound":
        return HubFailure(failures.MISSING_FILE, status=status)
    if code == "RepoNotFound":
        return HubFailure(failures.REPOSITORY, status=status)
    if code == "GatedRepo":
        return HubFailure(failures.GATED, shown, status=status)
    if status == 401 and (with_token or "invalid" in str(complaint).lower()):
        return HubFailure(failures.TOKEN, status=status)
    if status in (401, 403):
        return HubFailure(failures.GATED, shown, status=status)
    if status == 407:
        return HubFailure(failures.PROXY_LOGIN, status=status)
    return HubFailure(failures.REPOSITORY if status == 404 else failures.STATUS, status=status)


def of_modelscope(body: dict, status: int) -> HubFailure | None:
    """What a code in ModelScope's answer means; None where it has none that is known."""
    code = body.get("Code")
    if code == 10990101004:
        return HubFailure(failures.REVISION, status=status)
    if code == 10010200001:
        return HubFailure(failures.GATED, status=status)
    if code == 10010205001:
        return HubFailure(failures.REPOSITORY, status=status)
    if code == 1461 or "1461" in str(body.get("Message", "")):
        return HubFailure(failures.BUSY, status=status)
    return None


class _Trusting(requests.adapters.HTTPAdapter):
    """Connections that trust what a context does, through proxies too."""

    def __init__(self, context: ssl.SSLContext):
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def trusted() -> ssl.SSLContext:
    """Trust in what the system and certifi do, and in the certificates that the variables of other programs name."""
    return _trusting(tuple(os.environ.get(variable, "") for variable in CERTIFICATES))


@functools.cache
def _trusting(named: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(requests.certs.where())
    for path in filter(None, named):
        try:
            context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
        except OSError as error:  # also that there is no certificate in it
            raise HubFailure(failures.CERTIFICATE, f"{path}: {words(error)}") from None
    return context


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No login from ~/.netrc: requests would put it in the place of the token."""
    return request


def _proxies(address: str) -> dict[str, str]:
    """The environment's proxies for an address. GNOME writes socks://, which names no version."""
    found = requests.utils.get_environ_proxies(address)
    return {scheme: re.sub(r"^socks://", "socks5h://", proxy) for scheme, proxy in found.items()}


def origin(address: str) -> tuple:
    """Scheme, host and port: what a secret belongs to."""
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After asks for, as a number or a date, or a RateLimit, as Hugging Face sends it: `"api";r=0;t=36`."""
    told = headers.get("Retry-After", "")
    try:
        wait = float(told)
        return wait if 0 < wait < math.inf else 0.0
    except ValueError:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    limit = re.search(r";\s*r=0\s*;\s*t=(\d{1,6})", headers.get("RateLimit", ""))
    return float(limit[1]) if limit else 0.0


def _without_login(text: str) -> str:
    """A text without the name and password of an address in it."""
    return re.sub(r"//[^/@ ]*@", "//", text)


def _failure(error: Exception) -> HubFailure:
    """The kind of what a library raised."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or isinstance(error, requests.exceptions.SSLError):
        if failures.OF_ANOTHER_TIME.search(text):
            return HubFailure(failures.CLOCK)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            told = re.search(r"verify failed: ([^(]+)", text)
            return HubFailure(failures.CERTIFICATE, told[1].strip() if told else words(error))
        return HubFailure(failures.UNREACHABLE, words(error))
    if "407" in text and isinstance(error, requests.exceptions.ProxyError):
        return HubFailure(failures.PROXY_LOGIN)
    if isinstance(error, requests.exceptions.InvalidProxyURL) or "SOCKS version" in text:
        return HubFailure(failures.PROXY, _without_login(words(error)))
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return HubFailure(failures.STRANGE, words(error))
    if isinstance(error, (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
        return HubFailure(failures.UNREACHABLE, "Connection timed out")
    if "IncompleteRead" in text:
        return HubFailure(failures.UNREACHABLE, _("the connection was cut"))
    reason = words(error)
    # urllib3 says who asked for what before it says why.
    reason = re.sub(r"^<[^>]*>: |^.*\[Errno -?\d+\] ", "", reason).rstrip("')")
    if isinstance(error, requests.exceptions.ProxyError) or "SOCKSHTTP" in text:
        reason = _("the proxy: {reason}", reason=reason)
    return HubFailure(failures.UNREACHABLE, reason)
