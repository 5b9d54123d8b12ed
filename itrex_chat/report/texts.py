"""Two texts beside each other on a page."""

import unicodedata

from markupsafe import Markup

from itrex_chat.comparison.likeness import equal_characters
from itrex_chat.foundation.harmless import for_html


def parted(text: str, other: str) -> Markup:
    """A text with a mark where it leaves the other one."""
    same = equal_characters(text, other)
    while 0 < same < len(text) and unicodedata.combining(text[same]):
        same -= 1
    return Markup('{}<mark>▸</mark><span class="rest">{}</span>').format(for_html(text[:same]), for_html(text[same:]))
