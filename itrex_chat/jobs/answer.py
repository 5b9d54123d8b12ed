"""An answer: what one variant said to one question, and what it took. The same type from the worker to the report."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Drafts:
    """What the model `by` guessed of an answer: a variant's name ("int4") where it is one of the same model.

    It read what the answer was before each of `places`, and at `agreed` of them it would have gone on just so. `plain_tpot`
    is the mean of the seconds for each token that came without its guesses (None where none did); the answer's own `tpot`
    counts all of them.
    """

    by: str
    places: int
    agreed: int
    plain_tpot: float | None


@dataclass(frozen=True)
class Answer:
    """One line of `answers.jsonl`.

    `id` is the question's, `model` the model's label in the run, `variant` such as "int4". Times in seconds: `ttft` to
    the first token, `tpot` for each token after it (None for one token), `seconds` for the whole answer. `token_ids`
    are the answer's without the stop token, empty where they are not known (an online model's). `contention` is the share
    of the time that threads waited for a core which something else had (None where that is not known).
    `drafts` is absent where no model drafted.

    `batch` is how many answers were made together at most, absent for one made alone. There `ttft`, `tpot` and the rates are
    those of all of them, and are compared with no others; `seconds` is the answer's share of the time.

    `machine` is the one that it was made on, of the record's `machines`, absent where that is the run's own.

    `cached_tokens` of the prompt of one that was made alone were known from before, absent where none were: its `ttft` is
    compared with no others.
    """

    id: str
    model: str
    variant: str
    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    ttft: float
    tpot: float | None
    tokens_per_second: float | None
    prefill_tokens_per_second: float | None
    seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    contention: float | None = None
    drafts: Drafts | None = None
    batch: int | None = None
    machine: str | None = None
    cached_tokens: int | None = None

    @property
    def plain_tpot(self) -> float | None:
        """Seconds for each token after the first, as they are without a model that drafts."""
        return self.drafts.plain_tpot if self.drafts else self.tpot

    @property
    def plain_tokens_per_second(self) -> float | None:
        if self.drafts is None:
            return self.tokens_per_second
        return 1 / self.plain_tpot if self.plain_tpot else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is None by default is left out while it is."""
        values = dataclasses.asdict(self)
        left_out = {field.name for field in dataclasses.fields(self) if field.default is None}
        return {name: value for name, value in values.items() if value is not None or name not in left_out}
