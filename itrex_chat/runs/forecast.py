"""How long a variant will take whose weights are read from disk for each pass."""

from dataclasses import dataclass
from heapq import heappop, heappush

from itrex_chat.jobs.event import Facts

TOKENS_A_PASS = 2.0  # of a single answer that a model drafts


@dataclass(frozen=True)
class Forecast:
    """Seconds of a pass and of all answers; `known`: their lengths are those of another variant's answers, not the most
    that they may have."""

    pass_seconds: float
    seconds: float
    known: bool


def forecast(tokens: list[int], batch: int, facts: Facts, known: bool) -> Forecast:
    """For answers of so many `tokens`, `batch` at a time. Reading is what takes the time: a pass for each prompt, and one
    for each token of the answers that are made at the same time, or fewer where a model drafts a single one."""
    assert facts.streamed_bytes and facts.stream_rate
    each = facts.streamed_bytes / facts.stream_rate
    drafts = facts.drafter is not None and not facts.drafter.why
    decoding = sum(tokens) / TOKENS_A_PASS if drafts and batch == 1 else _longest(tokens, batch)
    return Forecast(each, each * (len(tokens) + decoding), known)


def _longest(tokens: list[int], batch: int) -> int:
    """Passes until all answers have ended, where the next one takes the place of one that has ended."""
    ends: list[int] = []
    for count in tokens:
        began = heappop(ends) if len(ends) == batch else 0
        heappush(ends, began + count)
    return max(ends, default=0)
