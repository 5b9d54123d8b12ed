"""Who may ask a server, and under which names."""

import hmac
import ipaddress
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field

LOCAL = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """Who may ask: with one of the `keys`, where there are any, and under these names of this machine (`hosts`). An address
    needs no name: a page that has its own name lead here (DNS rebinding) sends that name."""

    keys: Sequence[str] = field(default=(), repr=False)
    hosts: Sequence[str] = ()

    def knows_host(self, header: str) -> bool:
        name = hostname(header)
        return bool(name) and (_is_address(name) or name in (*LOCAL, *(host.lower() for host in self.hosts)))

    def knows_key(self, header: str) -> bool:
        """Compares all keys, each in a time that does not depend on where it differs."""
        scheme, _space, given = header.partition(" ")
        found = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.keys]
        return scheme.lower() == "bearer" and any(found)


def hostname(header: str) -> str:
    """The name or address in a Host header, or of an origin, in small letters; empty where there is none."""
    try:
        return (urllib.parse.urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
