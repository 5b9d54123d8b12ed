"""Choosing the next token from logits.

Needs PyTorch alone: ITREX's worker runs this file in its own environment.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from itrex_chat.generation.constraint import Constraint
    from itrex_chat.settings.generation import GenerationConfig


class NotFinite(ArithmeticError):
    """Logits from which nothing can be chosen: one is NaN or infinite, or all are -inf. -inf for some tokens is fine."""


class Sampler:
    """Chooses tokens of one answer: the likeliest, or a random one among the likely ones.

    `bias` is added to the logits of its tokens first. Then in the order of transformers' generate: repetition penalty over prompt and
    answer (arXiv:1909.05858), temperature, top-k, top-p (arXiv:1904.09751). Before the temperature, OpenAI's penalties over the
    answer: `presence` is taken from the logits of tokens that it has, `frequency` for each time that it has them.
    Of all tokens only those that a `constraint` allows can be chosen.
    The same seed and logits give the same tokens.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: list[int],
        vocab_size: int,
        bias: Mapping[int, float] | None = None,
        presence: float = 0.0,
        frequency: float = 0.0,
        constraint: Constraint | None = None,
    ):
        self._config, self._penalty = config, config.effective_repetition_penalty
        self._generator = torch.Generator().manual_seed(config.seed)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool)
        self._seen[prompt] = True
        self._bias: torch.Tensor | None = None
        if bias:
            self._bias = torch.zeros(vocab_size)
            self._bias[list(bias)] = torch.tensor(list(bias.values()), dtype=torch.float32)
        self._constraint = constraint
        self._presence, self._frequency = presence, frequency
        self._counts = torch.zeros(vocab_size) if presence or frequency else None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from float32 logits [vocabulary]. Raises NotFinite."""
        token = self.pick(logits)
        self.note(token)
        return token

    def note(self, token: int) -> None:
        """A token of the answer, whoever chose it: the penalties count it."""
        self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1
        if self._constraint is not None:
            self._constraint.take(token)

    def forked(self) -> Sampler:
        """One that goes on from here for itself, with the same draws; not with a constraint."""
        other = copy.copy(self)
        other._seen, other._generator = self._seen.clone(), torch.Generator()
        other._generator.set_state(self._generator.get_state())
        other._counts = None if self._counts is None else self._counts.clone()
        return other

    def pick(self, logits: torch.Tensor) -> int:
        """As `choose`, without noting the token: another one may follow."""
        if self._constraint is not None:
            logits = logits.masked_fill(~self._constraint.allowed(), -math.inf)
        if self._bias is not None:
            logits = logits + self._bias
        if self._penalty != 1.0:
            penalized = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
            logits = torch.where(self._seen, penalized, logits)
        if self._counts is not None:
            logits = logits - self._frequency * self._counts - self._presence * (self._counts > 0)
        values = logits.numpy()
        token = int(values.argmax())  # ten times as fast as torch's; the first NaN, where there is one
        if not math.isfinite(values[token]):
            raise NotFinite("the model gives logits that are not finite numbers")
        if self._config.do_sample and self._config.temperature != 0.0:
            scaled = logits / self._config.temperature
            if math.isfinite(scaled[token]):  # else the temperature is so low that the likeliest is chosen
                token = self._sample(scaled)
        return token

    def _sample(self, logits: torch.Tensor) -> int:
        count = min(self._config.top_k or len(logits), len(logits))
        values, tokens = logits.topk(count) if self._config.top_k else logits.sort(descending=True)
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[1:][before[1:] >= self._config.top_p] = 0  # the likeliest stays
        cumulative = probabilities.double().cumsum(-1)
        point = (
            torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        )  # as multinomial is not, of all versions
        return int(
            tokens[min(int(torch.searchsorted(cumulative, point, right=True)), int((probabilities > 0).sum()) - 1)]
        )
