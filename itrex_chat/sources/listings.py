"""What a hub is asked before a download: its listing, with patience, and whether the other hub has the same files."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from itrex_chat.foundation import offline
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import failures
from itrex_chat.sources.failures import Place
from itrex_chat.sources.hub_apis import HUBS, Hub
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.web import Web

Result = TypeVar("Result")


def hub(spec: SourceSpec) -> Hub:
    return HUBS[spec.hub]


def place(spec: SourceSpec, revision: str = "") -> Place:
    """Of whom a sentence about a recipe's source speaks."""
    other = spec.on_other_hub
    return hub(spec).place(spec.repository, revision, other.hub if other else "")


def listed(spec: SourceSpec, pinned: str | None, pace: Pace) -> tuple[str | None, dict]:
    """The commit and the data files at `pinned`, else at the revision, asked for again for a while when they do not come.

    Raises SourceError.
    """
    at, revision = hub(spec), pinned or spec.revision
    end, pause, told = time.monotonic() + pace.patience_for_listing, pace.first_pause, False
    while True:
        try:
            return _within(max(end - time.monotonic(), 0.1), at.listing, Web(pace.silence), spec.repository, revision)
        except failures.HubFailure as failure:
            wait = max(pause, failure.wait)
            if pinned and failure.kind == failures.REVISION:
                raise failures.vanished(place(spec), pinned) from failure
            late = time.monotonic() + wait > end and not (failure.wait and failure.wait <= pace.patience)
            if not failure.passing or late:
                raise failures.sentence(failure, place(spec, revision)) from failure
            if failure.wait:  # it says itself when it will be there
                end = max(end, time.monotonic() + wait + pace.patience_for_listing)
            if not told and wait > 2 * pace.first_pause:
                told = True
                tell(
                    _(
                        "{hub} does not answer ({reason}); trying again for {time}.",
                        hub=at.title,
                        reason=failure.reason or f"HTTP {failure.status}",
                        time=lasting(end - time.monotonic()),
                    ),
                    file=sys.stderr,
                )
            time.sleep(wait)
            pause = min(2 * pause, pace.longest_pause)


def elsewhere(spec: SourceSpec, missing: dict, pace: Pace) -> tuple[SourceSpec, str | None] | None:
    """The other hub and its commit, if the recipe names it and it lists the missing files with the same sizes and SHA-256."""
    other = spec.on_other_hub
    if other is None or offline.is_asked_for(other.hub):
        return None
    try:
        line = Web(pace.silence)
        commit, listed = _within(pace.patience_for_listing, hub(other).listing, line, other.repository, "")
    except failures.HubFailure:
        return None

    def agrees(name: str, file: dict) -> bool:
        there = listed.get(name) or {"digest": "", "size": -1}
        # Digests of different kinds cannot be compared; what comes is checked against this hub's in any case.
        alike = there["digest"] == file["digest"] or len(there["digest"]) != len(file["digest"])
        return alike and there["size"] == file["size"] and bool(file["digest"])

    return (other, commit) if all(agrees(name, file) for name, file in missing.items()) else None


def _within(seconds: float, call: Callable[..., Result], *arguments: Any) -> Result:
    """The call's result. In a thread, because neither name lookups nor the libraries' retries take a time limit."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        reason = _("no answer within {seconds} seconds", seconds=round(seconds))
        raise failures.HubFailure(failures.UNREACHABLE, reason) from None
