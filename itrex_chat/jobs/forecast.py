"""How long a variant will take whose weights are read from disk for each pass."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.event import Facts, Pace
from itrex_chat.jobs.job import MOST_TOGETHER

AGREED = 0.9  # of the tokens that a model drafts, one after the other
DRAFTED = 1.25  # tokens for each of an answer: those that were wrong, too


@dataclass(frozen=True)
class Forecast:
    """Seconds of all answers; `known`: their lengths are those of another variant's answers, not the most that they may
    have."""

    seconds: float
    known: bool


def forecast(
    prompts: Sequence[int], tokens: Sequence[int], batch: int, facts: Facts, pace: Pace, known: bool
) -> Forecast:
    """For prompts and answers of so many tokens, what ends an answer included, `batch` at a time."""
    drafting, rows = 0.0, MOST_TOGETHER // max(1, min(batch, len(tokens)))
    if rows > 1 and facts.drafter is not None and not facts.drafter.why:
        a_pass = (1 - AGREED**rows) / (1 - AGREED)  # a draft's tokens as far as they are right, and the one behind them
        drafting = DRAFTED * sum(tokens) * pace.draft
        tokens = [min(count, 2) + math.ceil(max(0, count - 2) / a_pass) for count in tokens]
    return Forecast(drafting + sum(map(pace.prompt, _passes(prompts, tokens, batch))), known)


def reading(facts: Facts, pace: Pace) -> str:
    """The beginning of a sentence that says what a variant takes."""
    assert facts.streamed_bytes
    return _(
        "{streamed} of {total} of weights are read from disk for each pass, about {each:.1f} s; ",
        streamed=readable(facts.streamed_bytes),
        total=readable(facts.weight_bytes),
        each=pace.each,
    )


def _passes(prompts: Sequence[int], tokens: Sequence[int], batch: int) -> Iterator[int]:
    """The tokens that each pass reads, where the next question takes the place of one that is answered. A long prompt has a
    pass of its own; the others share some."""
    waiting, going = deque(zip(prompts, tokens)), list[tuple[int, int]]()
    while waiting or going:
        while waiting and len(going) < batch:
            going.append(waiting.popleft())
        yield from (rows for rows, _left in going if rows > MOST_TOGETHER)
        few = sum(rows for rows, _left in going if rows <= MOST_TOGETHER)
        yield from [1] * math.ceil(few / MOST_TOGETHER)
        going = [(1, left - 1) for _rows, left in going if left > 1]
