"""What is asked of a decoder beside the settings of generation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.settings.generation import GenerationConfig

MOST_LOGPROBS = 20
MOST_STOPS = 16


@dataclass(frozen=True)
class Request:
    """A prompt to be answered.

    `stop`: texts at which the answer ends; they are not part of it.
    `seconds`: how long it may take, waiting included, before it ends as it is ("deadline").
    `logit_bias`: what is added to the logits of tokens before one is chosen.
    `logprobs`: None, or for how many of the likeliest tokens at each place log-probabilities are wanted beside the chosen one's.

    Raises GenerationError for values that cannot be.
    """

    prompt: list[int]
    config: GenerationConfig = GenerationConfig()
    stop: Sequence[str] = ()
    seconds: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        texts = isinstance(self.stop, (tuple, list)) and all(isinstance(text, str) and text for text in self.stop)
        if not texts or len(self.stop) > MOST_STOPS:
            raise GenerationError(
                _("stop cannot be {value!r}: it is a list of up to {count} texts.", value=self.stop, count=MOST_STOPS)
            )
        if self.seconds is not None and not (_is_number(self.seconds) and self.seconds > 0):
            raise GenerationError(_("seconds cannot be {value!r}: it is a number above 0.", value=self.seconds))
        if not isinstance(self.logit_bias, Mapping):
            raise GenerationError(
                _("logit_bias cannot be {value!r}: it has numbers by ids of tokens.", value=self.logit_bias)
            )
        for token, bias in self.logit_bias.items():
            if type(token) is not int or token < 0 or not _is_number(bias) or abs(bias) > 100:
                raise GenerationError(
                    _(
                        "logit_bias takes ids of tokens and numbers from -100 to 100, not {token!r}: {bias!r}.",
                        token=token,
                        bias=bias,
                    )
                )
        if self.logprobs is not None and not (type(self.logprobs) is int and 0 <= self.logprobs <= MOST_LOGPROBS):
            raise GenerationError(
                _(
                    "logprobs cannot be {value!r}: it is a number from 0 to {most}.",
                    value=self.logprobs,
                    most=MOST_LOGPROBS,
                )
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of the probability that the model gave to a token, before any setting changed it, and the
    likeliest tokens at its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
