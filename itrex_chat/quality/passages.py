"""Passages: the token ids that variants are scored on."""

import hashlib
import json
from dataclasses import dataclass

from itrex_chat.jobs.answer import Answer

ANSWERS = "answers"  # the corpus of the baseline's answers
WINDOW = 512  # tokens of a text that are read together


@dataclass(frozen=True)
class Passage:
    """Token ids, of which those from index `first` on are predicted, each from all before it.

    Passages are what varies independently: a question's answer, a window of a
    text. `corpus` groups them: ANSWERS or a text file's name.
    """

    corpus: str
    name: str
    ids: tuple[int, ...]
    first: int

    @property
    def positions(self) -> int:
        return len(self.ids) - self.first

    @property
    def key(self) -> str:
        """A digest of what is predicted, whatever it is called."""
        return hashlib.sha256(json.dumps([self.first, list(self.ids)]).encode()).hexdigest()[:24]


def of_answers(answers: list[Answer]) -> list[Passage]:
    """One passage for each answer of a run that has tokens; its prompt is read and not scored."""
    return [
        Passage(ANSWERS, answer.id, (*answer.prompt_token_ids, *answer.token_ids), len(answer.prompt_token_ids))
        for answer in answers
        if answer.token_ids and answer.prompt_token_ids
    ]


def of_text(name: str, ids: list[int], window: int = WINDOW) -> list[Passage]:
    """A text in windows that do not overlap; every token but the first of a window is predicted."""
    windows = (ids[start : start + window] for start in range(0, len(ids), window))
    return [
        Passage(name, f"{name} {number}", tuple(part), 1) for number, part in enumerate(windows, 1) if len(part) > 1
    ]
