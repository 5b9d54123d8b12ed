"""A sequence: one answer while it is made."""

import math
import time
from dataclasses import dataclass, replace

import torch

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.chat.streaming import PAUSE, TextStream
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Chunk
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.generation.drafting import Drafter
from itrex_chat.generation.model_drafts import ModelDrafter
from itrex_chat.generation.request import Request, TokenLogprob
from itrex_chat.generation.response import Response
from itrex_chat.generation.sampling import NotFinite, Sampler
from itrex_chat.generation.stopping import StopStrings
from itrex_chat.settings.generation import GenerationConfig

CANCELLED, DEADLINE = "cancelled", "deadline"
ROWS_AT_A_TIME = 16  # of logits that are normalized


@dataclass(frozen=True)
class Place:
    """A row of a cache, which holds what a sequence has read."""

    cache: KVCache
    row: int

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return self.cache.lengths[self.row]

    @property
    def pages(self) -> list[int]:
        return self.cache.held(self.row)

    def begin(self, prefill_length: int) -> None:
        self.cache.begin_row(self.row, prefill_length)

    def end(self) -> None:
        self.cache.end_row(self.row)

    def forget(self, tokens: int) -> None:
        self.cache.forget(tokens, self.row)


def not_finite() -> GenerationError:
    """The error of a model from whose logits no token can be chosen."""
    return GenerationError(
        _("The model gives logits that are not finite numbers, so there is no answer; its weights may be damaged.")
    )


class Sequence:
    """One answer to `prompt`, of at most `room` tokens; `request` has what else is asked.

    A pass reads the `chunk` that the sequence asks for and gives it the
    logits (`take`). Pieces of text wait until somebody takes them
    (`taken_pieces`). `started`: the time from which the first token counts.
    `finish_reason` is None until the answer ends: "stop", "length", "deadline" or
    "cancelled". `cached`: tokens of the prompt that its place held when it began.
    """

    def __init__(
        self,
        prompt: list[int],
        config: GenerationConfig,
        room: int,
        tokenizer: AnswerTokenizer,
        place: Place,
        vocabulary: int,
        drafter: Drafter | None = None,
        started: float | None = None,
        request: Request | None = None,
    ):
        self.prompt, self.room, self.place, self.drafter = prompt, room, place, drafter
        self.ids: list[int] = []
        self._pieces: list[str] = []
        self.finish_reason: str | None = None
        self._text = ""
        self._draft: list[int] = []
        request = request or Request(prompt, config)
        self._sampler = Sampler(
            config,
            prompt,
            vocabulary,
            request.logit_bias,
            request.presence_penalty,
            request.frequency_penalty,
            request.constraint,
        )
        self._stop_ids, self._stops = tokenizer.stop_ids, StopStrings(request.stop)
        # with stop strings, text is looked at after each token, so that the answer does not depend on time
        self._stream = TextStream(tokenizer.decode, tokenizer.strips_newline, 0 if request.stop else PAUSE)
        self._top = request.logprobs
        self.logprobs: list[TokenLogprob] = []  # of `ids`, where they are wanted
        self._ending: TokenLogprob | None = None
        self._prompt_top = request.prompt_logprobs
        self.prompt_logprobs: list[TokenLogprob] = []  # of the prompt's behind the first, as far as it is read
        self._read_from = 0  # where the newest chunk begins
        self.cached = 0
        self._chosen = 0  # tokens, a stop token included
        self._plain, self._plain_seconds = 0, 0.0  # those of them, behind the first, that came without a draft
        self._drafting = 0.0  # seconds that the drafter took for the newest pass
        self._first = self._last = self._started = started or time.perf_counter()
        place.begin(len(prompt))

    @property
    def reads_prompt(self) -> bool:
        """Whether there is still some of the prompt to be read."""
        return self.place.length < len(self.prompt)

    @property
    def scores_prompt(self) -> bool:
        """Whether the logits of all tokens of its prompt are wanted."""
        return self._prompt_top is not None

    def next_rows(self, prompt_tokens: int) -> int:
        """How many tokens its next pass reads at least, of its prompt so many or all that are left."""
        return min(prompt_tokens, len(self.prompt) - self.place.length) if self.reads_prompt else 1

    def chunk(self, prompt_tokens: int, answer_tokens: int) -> Chunk:
        """What the next pass reads for it: so many tokens of the prompt, or the newest token and a draft, in all so
        many; and which logits it wants."""
        start = self._read_from = self.place.length
        if self.reads_prompt:
            ids = self.prompt[start : start + prompt_tokens]
            wanted = len(ids) if self.scores_prompt else int(start + len(ids) == len(self.prompt))
            return Chunk(self.place.row, ids, wanted)
        newest = self.ids[-1]
        limit = min(answer_tokens, len(self.prompt) + self.room - start - 1) - 1
        if self.drafter:
            began = time.perf_counter()
            self._draft = self.drafter.draft(newest, limit)
            self._drafting = time.perf_counter() - began
        ids = [newest, *self._draft]
        return Chunk(self.place.row, ids, len(ids))

    def take(self, logits: torch.Tensor) -> None:
        """Go on by the logits of its last chunk, float32 [wanted, vocabulary].

        Raises GenerationError where they are NaN or infinite.
        """
        if self._prompt_top is not None and (followed := self.prompt[self._read_from + 1 :][: len(logits)]):
            self.prompt_logprobs += _logprobs(followed, logits[: len(followed)], self._prompt_top)
            logits = logits[len(followed) :]
            if not len(logits):
                return
        draft, self._draft = self._draft, []
        accepted, before = 0, self._last
        for row, drafted in zip(logits, [*draft, None]):
            token = self._choose(row)
            self._add(token, row)
            if token != drafted or self.finish_reason:
                break
            accepted += 1
        if not draft and self._chosen > 1:
            self._plain += 1
            self._plain_seconds += self._last - before - self._drafting
        if draft and self.drafter:
            self.drafter.checked(draft, accepted)
            self.place.forget(len(draft) - accepted)

    def cancel(self, reason: str = CANCELLED) -> None:
        """End it as it is."""
        if self.finish_reason is None:
            self._end(reason)

    def taken_pieces(self) -> list[str]:
        """The text that came since the last call, in pieces."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def response(self) -> Response:
        """The answer, once it has ended."""
        assert self.finish_reason is not None
        decoded, drafter = self._chosen - 1, self.drafter
        response = Response(
            self._text,
            self.ids,
            self.prompt,
            self.finish_reason,
            self._first - self._started,
            (self._last - self._first) / decoded if decoded > 0 else None,
            drafter.drafted if drafter else 0,
            drafter.accepted if drafter else 0,
            cached_tokens=self.cached,
            logprobs=None if self._top is None else tuple(self.logprobs),
            ending=self._ending,
            prompt_logprobs=None if self._prompt_top is None else tuple(self.prompt_logprobs),
        )
        if not isinstance(drafter, ModelDrafter):
            return response
        return replace(
            response,
            drafter=drafter.model.name,
            judged_tokens=min(len(drafter.choices), len(self.ids)),
            agreed_tokens=sum(choice == token for choice, token in zip(drafter.choices, self.ids)),
            plain_tpot=self._plain_seconds / self._plain if self._plain else None,
        )

    def _choose(self, logits: torch.Tensor) -> int:
        try:
            return self._sampler.choose(logits)
        except NotFinite:
            raise not_finite() from None

    def _add(self, token: int, logits: torch.Tensor) -> None:
        self._chosen += 1
        self._last = time.perf_counter()
        if self._chosen == 1:
            self._first = self._last
        found = None if self._top is None else _logprobs([token], logits[None], self._top)[0]
        if token in self._stop_ids:
            self._ending = found
            self._end("stop")
            return
        self.ids.append(token)
        if found:
            self.logprobs.append(found)
        self._say(self._stops.add(self._stream.add(token)))
        if self._stops.found is not None:
            self.finish_reason = "stop"
        elif len(self.ids) == self.room:
            self._end("length")

    def _end(self, reason: str) -> None:
        self._say(self._stops.add(self._stream.end()))
        if self._stops.found is None:
            self._say(self._stops.end())
        self.finish_reason = reason if self._stops.found is None else "stop"

    def _say(self, piece: str) -> None:
        if piece:
            self._text += piece
            self._pieces.append(piece)


def _logprobs(tokens: list[int], logits: torch.Tensor, count: int) -> list[TokenLogprob]:
    """Of tokens at as many places, by the logits there, float32 [tokens, vocabulary]. Raises GenerationError."""
    found = list[TokenLogprob]()
    for first in range(0, len(tokens), ROWS_AT_A_TIME):
        some = tokens[first : first + ROWS_AT_A_TIME]
        logprobs = logits[first : first + len(some)].log_softmax(-1)
        values, likeliest = logprobs.topk(min(count, logprobs.shape[1]))
        own = logprobs.gather(1, torch.tensor(some)[:, None])[:, 0].tolist()
        if any(math.isnan(value) for value in own):
            raise not_finite()
        found += [
            TokenLogprob(token, value, tuple(zip(ids, tops)))
            for token, value, ids, tops in zip(some, own, likeliest.tolist(), values.tolist())
        ]
    return found
