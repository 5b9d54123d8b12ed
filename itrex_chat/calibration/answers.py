"""A run's FP32 answers as a text to calibrate on: the tokens that the model was given and gave, control tokens included."""

from pathlib import Path

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _

FILE = "answers.jsonl"
LARGEST = 64 << 20  # bytes
VARIANT = "fp32"


def of_run(folder: Path) -> tuple[str, list[list[int]]]:
    """What was answered, and the tokens of each question with its answer, in the order of the questions' names.

    Raises RecipeError where there are none, or those of several models.
    """
    content = files.bytes_of(folder / FILE, RecipeError, LARGEST)
    found: dict[tuple[str, str], tuple[str, list[int]]] = {}
    try:
        *lines, _unfinished = content.decode("utf-8").split("\n")  # what a run was writing when it ended
        for line in lines:
            answer = stored.parsed_json(line)
            if answer["variant"] == VARIANT:
                found[_text(answer["model"]), _text(answer["id"])] = (_text(answer["text"]), _tokens(answer))
    except (ValueError, KeyError, TypeError):
        raise RecipeError(_("{path} is damaged.", path=folder / FILE)) from None
    if len({model for model, _question in found}) != 1:
        raise RecipeError(
            _("{run} cannot be calibrated on: it needs FP32 answers, and of one model alone.", run=folder)
        )
    pairs = [found[key] for key in sorted(found)]
    return "\n\n".join(text for text, _ids in pairs), [ids for _answer, ids in pairs]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _tokens(answer: dict) -> list[int]:
    ids = [*answer["prompt_token_ids"], *answer["token_ids"]]
    if any(type(token) is not int or token < 0 for token in ids):
        raise ValueError
    return ids
