"""Reaching a Ray cluster, or saying in a sentence why it cannot be reached."""

import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

PATIENCE = 5.0  # seconds for an address to answer
SETTINGS = b"\x04"  # the type of the frame that a server of HTTP/2, which gRPC is spoken in, begins with
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0" * 5
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to the cluster at HOST:PORT; "" is that of RAY_ADDRESS, the one that runs on this machine, or one of this
    machine alone. Raises RunError."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise RunError(
            _(
                'Ray cannot be imported ({reason}); install it with: {python} -m pip install "itrex_chat[ray]".',
                reason=error,
                python=sys.executable,
            )
        ) from None
    if ray.is_initialized():  # a program has its own connection
        yield
        return
    named = address or os.environ.get("RAY_ADDRESS", "")
    if ":" in named:
        _answers(named)
    try:
        with _unheard():
            ray.init(
                address=named or None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=False,
                **({} if named else {"include_dashboard": False}),
            )
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise RunError(_unreachable(named, error)) from None
    _silence()
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what Ray's libraries write to standard error away, a line a second while something answers that is no head, such as
    its dashboard; what is wrong is in the exception."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _silence() -> None:
    """Keep Ray from writing the state of a machine that was lost, a hundred lines of it, among a command's own. There is no
    public way, so where this one goes, the lines come."""
    with contextlib.suppress(ImportError):
        worker = importlib.import_module("ray._private.worker")
        if hasattr(worker, "_worker_logs_enabled"):
            worker._worker_logs_enabled = False  # type: ignore[attr-defined]  # a module by its name


def _answers(address: str) -> None:
    """Raise RunError where nothing listens at HOST:PORT, or something else, such as Ray's dashboard; Ray itself would try for
    half a minute, or for minutes."""
    host, _colon, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise RunError(
            _(
                "--executor: {address!r} is no address of a cluster; write HOST:PORT, as ray start says it.",
                address=address,
            )
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as found:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                found.sendall(GREETING)
                if found.recv(9)[3:4] != SETTINGS:
                    raise OSError(_("what answers there is not the head of a cluster"))
    except OSError as error:
        raise RunError(_unreachable(address, error)) from None


def _unreachable(address: str, error: Exception) -> str:
    return _(
        "The Ray cluster {address} cannot be reached: {reason}. Is it running (ray status), with this version of Ray and Python?",
        address=address or "RAY_ADDRESS",
        reason=" ".join(str(error).split())[:300].rstrip("."),
    )
