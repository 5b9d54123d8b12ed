"""Text of models and users made harmless, for each medium that shows it."""

import importlib
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from markupsafe import Markup

Cell = TypeVar("Cell")

JOINERS = "\u200c\u200d"  # of emoji and of some scripts
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")
STEERING = ("Cc", "Cf", "Cs")  # control characters, formatting such as the direction of writing, lone surrogates
UNSEEN = (*STEERING, "Co", "Cn", "Zl", "Zp")


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which no encoding has."""
    return text.encode("utf-8", "replace").decode("utf-8")


def for_terminal(text: str) -> str:
    """Text that cannot steer the terminal: control, formatting and private characters are left out, half ones are marked."""
    return _without(encodable(text), (*STEERING, "Co"))


def tell(text: str, end: str = "\n", file: TextIO | None = None) -> None:
    """Print text for people: the one way in which commands show what may be a stranger's."""
    print(for_terminal(text), end=end, file=file, flush=True)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON for programs that a terminal may show, too: what would steer it is escaped as JSON escapes it, so that nothing is lost."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(json.dumps(c)[1:-1] if c != "\n" and unicodedata.category(c) in STEERING else c for c in text)


@contextmanager
def unheard(library: str) -> Iterator[None]:
    """As long as a library reads a model's files it logs nothing: its warnings quote them as they are. What is wrong with
    them is said by us."""
    importlib.import_module(library)  # sets its own level
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def for_html(text: str) -> "Markup":
    """Escaped; characters that are invisible or turn the direction of writing are named instead (U+202E)."""
    from markupsafe import Markup, escape  # the help of a verb need not wait for it

    parts, start = [], 0
    text = text.replace("\r\n", "\n")
    for index, character in enumerate(text):
        if character not in "\n\t" + JOINERS and unicodedata.category(character) in UNSEEN:
            parts += [escape(text[start:index]), _named(character)]
            start = index + 1
    return Markup("").join([*parts, escape(text[start:])])


def for_markdown(text: str) -> str:
    """Text that Markdown shows as it is; what steers a terminal or turns the direction of writing is left out."""
    text = _without(text, STEERING, "\n\t" + JOINERS).replace("&", "&amp;").replace("<", "&lt;")
    return MARKDOWN.sub(r"\\\1", text)


def for_markdown_line(text: str) -> str:
    """Text that Markdown shows as it is in a heading or a cell, which a line feed would end."""
    return for_markdown(text).replace("\n", " ")


def for_spreadsheet(cell: Cell) -> Cell | str:
    """A cell of a CSV file: a text that a spreadsheet would run as a formula is kept a text by an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def kept_by_spreadsheets(text: str) -> str:
    """What a spreadsheet gives back of a text: no control or direction characters but line feeds and tabs."""
    return _without(text, STEERING)


def _without(text: str, categories: tuple[str, ...], kept: str = "\n\t") -> str:
    return "".join(c for c in text if c in kept or unicodedata.category(c) not in categories)


def _named(character: str) -> "Markup":
    from markupsafe import Markup

    return Markup('<span class="control">U+{}</span>').format(f"{ord(character):04X}")
