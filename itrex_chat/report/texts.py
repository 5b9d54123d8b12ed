"""Text of models and users as HTML: shown as it is, and unable to act."""

import unicodedata

from markupsafe import Markup, escape

from itrex_chat.comparison.metrics import equal_characters

JOINERS = "\u200c\u200d"  # of emoji and of some scripts


def shown(text: str) -> Markup:
    """Escaped; characters that are invisible or turn the direction of writing are named instead (U+202E)."""
    parts, start = [], 0
    text = text.replace("\r\n", "\n")
    for index, character in enumerate(text):
        if _hidden(character):
            parts += [escape(text[start:index]), _named(character)]
            start = index + 1
    return Markup("").join([*parts, escape(text[start:])])


def parted(text: str, other: str) -> Markup:
    """A text with a mark where it leaves the other one."""
    same = equal_characters(text, other)
    while 0 < same < len(text) and unicodedata.combining(text[same]):
        same -= 1
    return Markup('{}<mark>▸</mark><span class="rest">{}</span>').format(shown(text[:same]), shown(text[same:]))


def _hidden(character: str) -> bool:
    return character not in "\n\t" + JOINERS and unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
        "Zl",
        "Zp",
    )


def _named(character: str) -> Markup:
    return Markup('<span class="control">U+{}</span>').format(f"{ord(character):04X}")
