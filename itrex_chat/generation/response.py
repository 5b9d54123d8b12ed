"""What generation returns."""

from dataclasses import dataclass

from itrex_chat.generation.request import TokenLogprob


@dataclass(frozen=True)
class Response:
    """An answer and what it took.

    `token_ids` are the answer's, without the stop token that ended it.
    `finish_reason` is "stop" (the model ended it, or a stop string), "length" (max_new_tokens
    or the model's context ran out), "deadline" (its time ran out) or "cancelled". `ttft` is the seconds from the prompt's
    ids to the first token; `tpot` the mean seconds per token after the first,
    stop token included (None for one token). `accepted_tokens` of the
    `drafted_tokens` that were guessed were right; those took no pass of their
    own, and `tpot` counts them like any other.

    `drafter` is the model that guessed, if one did: it read what the answer
    was before each of `judged_tokens` places, and at `agreed_tokens` of them
    it would have gone on just so. `plain_tpot` is then the mean seconds of the
    tokens that came without its guesses (None where none did).

    `contention` is the share of the answer's time that its threads waited for
    a core, because something else ran there (None where the system does not tell).

    `batch` is how many answers were made together at most; where it is more
    than one, `ttft` and the times per token are those of all of them,
    `contention` is None, and `share` is the answer's part of the seconds that
    they took.

    `cached_tokens` of the prompt were known from an earlier one that began
    alike, and not read. `logprobs` has one for each of `token_ids` where they
    were asked for, and `ending` is that of the stop token behind them, if one
    ended it; `prompt_logprobs` has one for each token of the prompt behind the first.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str
    ttft: float
    tpot: float | None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    contention: float | None = None
    drafter: str = ""
    judged_tokens: int = 0
    agreed_tokens: int = 0
    plain_tpot: float | None = None
    batch: int = 1
    share: float | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    ending: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.ttft if self.ttft else 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """The rate of decode; None where there was none."""
        return 1 / self.tpot if self.tpot else None

    @property
    def plain_tokens_per_second(self) -> float | None:
        """The rate of decode without a model's guesses."""
        tpot = self.plain_tpot if self.drafter else self.tpot
        return 1 / tpot if tpot else None

    def __str__(self) -> str:
        return self.text
