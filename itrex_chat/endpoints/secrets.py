"""The key and the address as a user gives them, checked; and the key kept out of everything that is kept or shown."""

import os
import urllib.parse

from itrex_chat.endpoints import ADDRESS, KEY
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

REDACTED, SHORTEST = "[key]", 8  # shorter ones are words such as "none" that stand for no key


def key() -> str:
    """The key in OPENAI_API_KEY, "" for none. Raises RunError, without showing it, for one that no header can hold."""
    found = os.environ.get(KEY, "").strip()
    if all("!" <= character <= "~" for character in found):
        return found
    raise RunError(
        _(
            "The key in {variable} has a character that no key has: a space or line break inside, or none of ASCII. "
            "Set it anew.",
            variable=KEY,
        )
    )


def address(named: str | None) -> str:
    """The address that is named, else OPENAI_BASE_URL's, without a slash at its end. Raises RunError."""
    given = (named or os.environ.get(ADDRESS, "")).strip()
    try:
        parts = urllib.parse.urlsplit(given)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # UnicodeError, too
        raise RunError(_unnamed()) from None
    if "@" in parts.netloc:
        raise RunError(
            _(
                "The endpoint's address has a user or a password in it; leave them out. A key is taken from {variable}.",
                variable=KEY,
            )
        )
    plain = all("!" <= character <= "~" for character in host + parts.path)
    if parts.scheme not in ("http", "https") or not host or not plain or parts.query or parts.fragment:
        raise RunError(_unnamed())
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    return f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")


def _unnamed() -> str:
    return _(
        "Name the endpoint with --endpoint or {variable}: an address that begins with http:// or https://, such as "
        "https://api.openai.com/v1 or http://localhost:8000/v1.",
        variable=ADDRESS,
    )


def redacted(text: str, key: str) -> str:
    """The text without the key, as it is and as an address has it."""
    if len(key) < SHORTEST:
        return text
    for form in (key, urllib.parse.quote(key, safe="")):
        text = text.replace(form, REDACTED)
    return text
