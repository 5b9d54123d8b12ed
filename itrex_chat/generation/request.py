"""What is asked of a decoder beside the settings of generation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.generation.constraint import Constraint
from itrex_chat.settings.generation import GenerationConfig

MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_WAITING = 256  # requests to one scheduler
MOST_PENALTY = 2.0


@dataclass(frozen=True)
class Request:
    """A prompt to be answered.

    `stop`: texts at which the answer ends; they are not part of it.
    `seconds`: how long it may take, waiting included, before it ends as it is ("deadline").
    `logit_bias`: what is added to the logits of tokens before one is chosen.
    `logprobs`: None, or for how many of the likeliest tokens at each place log-probabilities are wanted beside the chosen one's.
    `prompt_logprobs`: the same for the tokens of the prompt, which is read whole then, whatever is known of it.
    `presence_penalty`, `frequency_penalty`: what is taken from the logits of tokens that the answer has, once and for each time.
    `constraint`: what the answer has to be; it goes along with this one answer, and nobody drafts for it.

    Raises GenerationError for values that cannot be.
    """

    prompt: list[int]
    config: GenerationConfig = GenerationConfig()
    stop: Sequence[str] = ()
    seconds: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    constraint: Constraint | None = None

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
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 0 <= value <= MOST_LOGPROBS):
                raise _out_of_range(name, value, 0, MOST_LOGPROBS)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not _is_number(value) or abs(value) > MOST_PENALTY:
                raise _out_of_range(name, value, -MOST_PENALTY, MOST_PENALTY)


def _out_of_range(name: str, value: object, low: float, high: float) -> GenerationError:
    return GenerationError(
        _(
            "{name} cannot be {value!r}: it is a number from {low} to {high}.",
            name=name,
            value=value,
            low=low,
            high=high,
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
