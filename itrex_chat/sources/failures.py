"""What can go wrong between this machine and a hub, and each as a sentence that is true."""

import re
import time
from dataclasses import dataclass

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting

# Kinds of failures. Those in PASSING may be gone a moment later; the others are as true then as now.
UNREACHABLE = "unreachable"  # no answer, or not all of it
BUSY = "busy"  # an answer that asks to come back: 408, 429, 5xx, ModelScope's overload
STATUS = "status"  # an HTTP status that means nothing of what follows
REVISION = "revision"
REPOSITORY = "repository"
GATED = "gated"
TOKEN = "token"
MISSING_FILE = "missing file"
STRANGE = "strange"  # an answer, but not a hub's
CERTIFICATE = "certificate"
CLOCK = "clock"
PROXY = "proxy"
PROXY_LOGIN = "proxy login"
WITH_TOKEN = "with token"  # the reason of GATED where the hub was shown one
PASSING = (UNREACHABLE, BUSY)

OF_ANOTHER_TIME = re.compile(r"certificate (has expired|is not yet valid)")


@dataclass(eq=False)
class HubFailure(Exception):
    """One of the kinds above, with words of the system or of a library, an HTTP status, and how long to wait before the next try."""

    kind: str
    reason: str = ""
    status: int = 0
    wait: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason or self.status}"

    @property
    def passing(self) -> bool:
        return self.kind in PASSING


@dataclass(frozen=True)
class Place:
    """Of whom a sentence speaks: a hub's title and variables, a repository, a revision, and the other hub's name if it has it."""

    title: str
    mirror: str
    token: str
    repository: str
    revision: str = ""
    other: str = ""


def sentence(failure: HubFailure, place: Place) -> SourceError:
    """The failure for a user."""
    told = _TOLD.get(failure.kind)
    return SourceError(told(failure, place) if told else _unreachable(failure, place))


def _revision(failure: HubFailure, place: Place) -> str:
    return _(
        "{repository} on {hub} has no revision {revision}. Set source.revision to one of its "
        "branches, tags or commits, or leave it empty for the default branch.",
        repository=place.repository,
        hub=place.title,
        revision=place.revision,
    )


def vanished(place: Place, commit: str) -> SourceError:
    """The commit that an unfinished or earlier download was pinned to is gone."""
    return SourceError(
        _(
            "{repository} on {hub} has the commit {commit} no more, which files were downloaded from before. "
            "Take what is there now with --refresh.",
            repository=place.repository,
            hub=place.title,
            commit=commit[:12],
        )
    )


def _gated(failure: HubFailure, place: Place) -> str:
    if failure.reason == WITH_TOKEN:
        return _(
            "{hub} does not give {repository} to the owner of your access token. Accept its conditions on the hub's page if "
            "it has some, or set {token} to a valid token that may read it.",
            hub=place.title,
            repository=place.repository,
            token=place.token,
        )
    return _(
        "{hub} does not give {repository} to everyone. Accept its conditions on the hub's page "
        "if it has some, and set {token} to your access token.",
        hub=place.title,
        repository=place.repository,
        token=place.token,
    )


def _token(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} does not accept your access token. Set {token} to a valid one, or log out to read what is public.",
        hub=place.title,
        token=place.token,
    )


def _repository(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} has no public repository {repository}. Check the name; if it is a private one, "
        "set {token} to your access token.",
        hub=place.title,
        repository=place.repository,
        token=place.token,
    )


def _missing_file(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} lists {name} in {repository} but does not give it. Try again later, or take what is there now "
        "with --refresh.",
        hub=place.title,
        name=failure.reason,
        repository=place.repository,
    )


def _status(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} answered with an error (HTTP {status}). Try again later, or name a local folder with --model FOLDER.",
        hub=place.title,
        status=failure.status,
    )


def _busy(failure: HubFailure, place: Place) -> str:
    if failure.wait:
        return _(
            "{hub} is too busy (HTTP {status}) and asks to come back in {time}. What has come is kept.",
            hub=place.title,
            status=failure.status,
            time=lasting(failure.wait),
        )
    return _status(failure, place)


def _strange(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} gave an answer that cannot be understood ({reason}). See whether a proxy or a "
        "login page answers in its place.",
        hub=place.title,
        reason=failure.reason,
    )


def _certificate(failure: HubFailure, place: Place) -> str:
    return _(
        "{hub} shows a certificate that this machine does not trust ({reason}). Where a proxy looks into connections, "
        "set SSL_CERT_FILE to a file with its certificate.",
        hub=place.title,
        reason=failure.reason,
    )


def _clock(failure: HubFailure, place: Place) -> str:
    return _(
        "The certificate of {hub} is not valid at the time of this machine's clock, {now}. Set the clock right; "
        "if it is, the certificate is out of date.",
        hub=place.title,
        now=time.strftime("%Y-%m-%d %H:%M"),
    )


def _proxy(failure: HubFailure, place: Place) -> str:
    return _(
        "The address of a proxy in the environment cannot be used ({reason}). Set HTTPS_PROXY or ALL_PROXY to one "
        "such as http://host:port or socks5h://host:port, or unset it.",
        reason=failure.reason,
    )


def _proxy_login(failure: HubFailure, place: Place) -> str:
    return _(
        "The proxy wants a name and a password. Give them in HTTPS_PROXY or ALL_PROXY, as in "
        "http://name:password@host:port."
    )


def _unreachable(failure: HubFailure, place: Place) -> str:
    fields = {"hub": place.title, "reason": failure.reason, "mirror": place.mirror}
    if place.other:
        return _(
            "{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, take the "
            "other hub with --set source.hub {other}, or set {mirror} to a mirror.",
            other=place.other,
            **fields,
        )
    return _(
        "{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, or set {mirror} to a mirror.",
        **fields,
    )


_TOLD = {
    BUSY: _busy,
    STATUS: _status,
    REVISION: _revision,
    REPOSITORY: _repository,
    GATED: _gated,
    TOKEN: _token,
    MISSING_FILE: _missing_file,
    STRANGE: _strange,
    CERTIFICATE: _certificate,
    CLOCK: _clock,
    PROXY: _proxy,
    PROXY_LOGIN: _proxy_login,
}


def damaged(name: str) -> SourceError:
    return SourceError(
        _(
            "{name} arrived damaged: its content is not what the hub lists. Try again; files that are "
            "complete are kept.",
            name=name,
        )
    )


def words(error: BaseException | None) -> str:
    """The innermost error that has words, on one line."""
    text = ""
    while error is not None:
        text = getattr(error, "strerror", None) or str(error) or text
        inner = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else None
    return " ".join(text.split())[:200].rstrip(".")
