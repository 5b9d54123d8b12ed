"""An answer: what one variant said to one question, and what it took. The same type from the worker to the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One line of `answers.jsonl`.

    `id` is the question's, `model` the model's label in the run, `variant` such as "int4". Times in seconds: `ttft` to
    the first token, `tpot` for each token after it (None for one token), `seconds` for the whole answer. `token_ids`
    are the answer's without the stop token, empty where they are not known (an online model's). `contention` is the share
    of the time that threads waited for a core which something else had (None where that is not known).
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
