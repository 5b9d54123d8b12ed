"""The last answers of chat completions by their names, so that a vote or an export need only name them: what a browser says
was answered is never taken for it."""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Sequence

from itrex_chat.chat.messages import Message
from itrex_chat.engines.answered import as_answer
from itrex_chat.foundation.language import _
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.runs.gathered import Made
from itrex_chat.server.answering import Asked
from itrex_chat.server.errors import ApiError
from itrex_chat.server.models import Model
from itrex_chat.server.protocol import ChatRequest

MOST, LARGEST = 2000, 4_000_000  # answers, and the tokens and characters of all of them
# What an answer may be asked with, so that a run's settings tell all of it; other fields have to be as they are by default.
TOLD = {
    *("model", "messages", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "user"),
    *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "stream", "stream_options"),
}


class KeptAnswers:
    """What was kept longest ago is forgotten where there are too many answers, or too much in all of them."""

    def __init__(self, most: int = MOST, largest: int = LARGEST):
        self._most, self._largest = most, largest
        self._kept: OrderedDict[str, Made] = OrderedDict()
        self._size = 0

    def keep(
        self,
        name: str,
        asked: ChatRequest,
        model: Model,
        messages: Sequence[Message],
        requests: Sequence[Request],
        group: Asked,
        began: float,
        responses: Sequence[Response],
    ) -> None:
        """Keep what was answered to `messages`, unless a run could not tell how it was asked. `began`: when, as
        `time.perf_counter` says it."""
        if not _told(asked) or len(responses) != 1 or any(each.calls or each.role == "tool" for each in messages):
            return
        [response], wall = responses, time.perf_counter() - began
        seconds = response.share or wall / max(group.together, 1)
        made = Made(
            answer=as_answer(response, name, model.recipe.name, str(model.variant), seconds, group.together),
            turns=tuple(message.content for message in messages if message.role == "user"),
            system="".join(message.content for message in messages if message.role == "system"),
            recipe=dataclasses.replace(model.recipe, generation=requests[0].config),
            seeded=asked.seed is not None,
            facts=model.session.facts,
            needed=model.needed,
            artifact=model.artifact,
        )
        self.add(name, made)

    def add(self, name: str, made: Made) -> None:
        self._kept[name] = made
        self._size += _size(made)
        while len(self._kept) > self._most or (self._size > self._largest and self._kept):
            _name, forgotten = self._kept.popitem(last=False)
            self._size -= _size(forgotten)

    def find(self, names: Sequence[str]) -> list[Made]:
        """The answers to one question, of different models or variants. Raises ApiError."""
        for name in names:
            if name not in self._kept:
                raise ApiError(
                    404,
                    _("There is no answer {name!r}, or not any more; ask again.", name=name[:100]),
                    "answers",
                    "answer_not_found",
                )
        found = [self._kept[name] for name in names]
        if len({made.turns for made in found}) > 1:
            raise ApiError(400, _("These answers are not to the same question."), "answers")
        if len({made.answerer for made in found}) < len(found):
            raise ApiError(
                400,
                _("Two of these answers are of one model; choose another one, or another variant of it."),
                "answers",
            )
        return found


def _told(asked: ChatRequest) -> bool:
    others = type(asked).model_fields.items()
    return all(
        getattr(asked, name) == field.get_default(call_default_factory=True)
        for name, field in others
        if name not in TOLD
    )


def _size(made: Made) -> int:
    answer = made.answer
    texts = sum(map(len, (answer.text, made.system, *made.turns)))
    return texts + len(answer.token_ids) + len(answer.prompt_token_ids)
