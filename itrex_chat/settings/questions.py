"""Question sets: the questions that every variant of every model is asked.

A set is a YAML file: `name`, `language`, an optional `system` message,
`questions` with `id` and `text` (and `category`, `expected` for the report),
and `includes`, other sets whose questions come first: by name, or files as
seen from the folder of the set that includes them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation.choices import called, did_you_mean, one_of
from itrex_chat.foundation.errors import QuestionSetError
from itrex_chat.foundation.language import LANGUAGES, _
from itrex_chat.foundation.places import data_folder, expanded
from itrex_chat.foundation.yaml_file import read_mapping

DEFAULT = {"zh": "semantics-5", "en": "english-5"}
SET_FIELDS = {"name": str, "language": str, "system": str, "includes": list, "questions": list}
QUESTION_FIELDS = {"id": str, "text": str, "category": str, "expected": str}


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    category: str = ""
    expected: str = ""


@dataclass(frozen=True)
class QuestionSet:
    name: str
    language: str
    questions: tuple[Question, ...]
    system: str = ""


def names() -> list[str]:
    """The question sets that exist, sorted."""
    return sorted(file.stem for file in data_folder("prompts").glob("*.yaml"))


def load(name: str) -> QuestionSet:
    """The set of that name, or in that file. Raises QuestionSetError."""
    return _load(name, Path(), ())


def default_for(languages: tuple[str, ...]) -> QuestionSet:
    """The set that fits a model: Chinese where it knows Chinese, else English."""
    return load(DEFAULT["zh" if "zh" in languages else "en"])


def _load(name: str, folder: Path, including: tuple[Path, ...]) -> QuestionSet:
    """A set by its name, or in a file as seen from `folder`; the files of `including` are being read."""
    file = data_folder("prompts") / f"{name}.yaml" if name in names() else folder / expanded(name)
    if not os.path.isfile(file):
        raise QuestionSetError(
            _(
                "There is no question set {name}.{hint} Known: {names}; a YAML file works too.",
                name=file if file.suffix in (".yaml", ".yml") else name,
                hint=did_you_mean(name, names()),
                names=", ".join(names()),
            )
        )
    if any(os.path.samefile(file, other) for other in including):
        raise QuestionSetError(_("{file} includes itself.", file=file))
    content = _read(file)
    questions = [
        question
        for other in content.get("includes", ())
        for question in _load(str(other), file.parent, (*including, file)).questions
    ]
    questions += [_question(entry, number, file) for number, entry in enumerate(content.get("questions", ()), 1)]
    seen = set()
    for question in questions:
        if question.id in seen:
            raise QuestionSetError(_("{file}: two questions have the id {id}.", file=file, id=question.id))
        seen.add(question.id)
    if not questions:
        raise QuestionSetError(_("{file} has no questions.", file=file))
    return QuestionSet(
        content.get("name") or file.stem, content.get("language", "en"), tuple(questions), content.get("system", "")
    )


def _read(file: Path) -> dict:
    content = read_mapping(file, QuestionSetError, texts=True)
    _check(content, SET_FIELDS, str(file))
    one_of(_("{file}: language", file=file), content.get("language", "en"), LANGUAGES, QuestionSetError)
    return content


def _question(entry: object, number: int, file: Path) -> Question:
    where = _("{file}, question {number}", file=file, number=number)
    if not isinstance(entry, dict):
        raise QuestionSetError(_("{where} must have the fields id and text.", where=where))
    _check(entry, QUESTION_FIELDS, where)
    for field in ("id", "text"):
        if not entry.get(field, "").strip():
            raise QuestionSetError(_("{where} has no {field}.", where=where, field=field))
    return Question(**entry)


def _check(given: dict, known: dict, where: str) -> None:
    for field, value in given.items():
        if field not in known:
            raise QuestionSetError(
                _(
                    "{where}: there is no field {field}.{hint} Fields: {fields}.",
                    where=where,
                    field=field,
                    hint=did_you_mean(field, known),
                    fields=", ".join(known),
                )
            )
        if not isinstance(value, known[field]):
            raise QuestionSetError(
                _(
                    "{where}: {field} must be {kind}, not {value!r}.",
                    where=where,
                    field=field,
                    kind=called(known[field]),
                    value=value,
                )
            )
