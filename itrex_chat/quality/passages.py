"""Passages: the token ids that variants are scored on."""

from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.passage import Passage

ANSWERS = "answers"  # the corpus of the baseline's answers
WINDOW = 512  # tokens of a text that are read together
STEP = 128  # positions whose logits are held at a time
CONTEXT_STEP = 4 * STEP  # tokens that are read at a time where no logits are wanted


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


def passes(passage: Passage) -> list[tuple[int, int]]:
    """The tokens that each pass over a passage reads, [first, last) of its ids: those before the first predicted one from
    which nothing is predicted, then the ones that predict."""
    context, end = passage.first - 1, len(passage.ids) - 1
    return [
        *((start, min(start + CONTEXT_STEP, context)) for start in range(0, context, CONTEXT_STEP)),
        *((start, min(start + STEP, end)) for start in range(context, end, STEP)),
    ]
