"""What was said so far, and the file that keeps it."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.stored import parsed_json

KIND, FORMAT = "itrex_chat conversation", 1
LARGEST = 16 << 20  # bytes of a saved conversation
MOST_TURNS = 10_000


@dataclass
class Turn:
    """A question and its answers by variant; none where it was not answered."""

    question: str
    answers: dict[str, str] = field(default_factory=dict)


@dataclass
class Conversation:
    """Each variant goes on from its own answers, as if it were alone; where it has none, from another's."""

    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def messages(self, variant: str) -> list[Message]:
        """What a variant is asked: all that was answered, and the last question."""
        found = [Message("system", self.system)] if self.system else []
        for turn in self.turns[:-1]:
            if turn.answers:
                answer = turn.answers.get(variant, next(iter(turn.answers.values())))
                found += [Message("user", turn.question), Message("assistant", answer)]
        return [*found, Message("user", self.turns[-1].question)]


def save(conversation: Conversation, model: str, path: Path, force: bool = False) -> None:
    """Write a conversation as JSON, whole or not at all, for its owner's eyes. Raises RunError, also where that would
    replace a file that is not a saved conversation; `force` replaces any regular file."""
    _replaceable(path, force)
    content = {
        "kind": KIND,
        "format": FORMAT,
        "model": model,
        "system": conversation.system,
        "turns": [{"question": turn.question, "answers": turn.answers} for turn in conversation.turns],
    }
    with files.disk_errors(RunError, _("Writing to {folder}", folder=path.parent)):
        files.write_json(path, content, files.PRIVATE)


def load(path: Path) -> tuple[Conversation, str]:
    """A saved conversation and its model's name. Raises RunError with a sentence, whatever the file is."""
    try:
        content = parsed_json(files.text_of(path, RunError, LARGEST))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise RunError(_("{path} is not a conversation that /save wrote.", path=path))
    if content.get("format") != FORMAT:
        raise RunError(_("{path} was written by another version of this program.", path=path))
    try:
        turns = [_turn(entry) for entry in _is(list, content["turns"])]
        if len(turns) > MOST_TURNS:
            raise ValueError(len(turns))
        return Conversation(_is(str, content["system"]), turns), _is(str, content["model"])
    except (ValueError, KeyError):
        raise RunError(_("{path} is damaged.", path=path)) from None


def _turn(entry: Any) -> Turn:
    answers = _is(dict, _is(dict, entry)["answers"])
    return Turn(_is(str, entry["question"]), {name: _is(str, text) for name, text in answers.items()})


def _is(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(value)
    return value


def _replaceable(path: Path, force: bool) -> None:
    """Raise RunError unless a conversation may take the place of what is there."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # writing tells what is wrong, if anything is
    except ValueError:
        raise RunError(_("{path} cannot be the name of a file.", path=ascii(str(path)))) from None
    if not stat.S_ISREG(mode):
        raise RunError(_("{path} is not a regular file; choose another name.", path=path))
    if not force:
        try:
            load(path)
        except RunError:
            raise RunError(
                _(
                    "{path} is there already and is not a conversation that /save wrote; /save --force {path} replaces it.",
                    path=path,
                )
            ) from None
