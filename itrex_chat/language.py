"""Messages in the user's language.

Texts are written in English where they are used, with named fields, and looked
up in `locale/<language>.yaml` by that English text. A text that has no
translation is shown in English.
"""
import functools
import os
from importlib import resources

import yaml

LANGUAGES = ("en", "zh")


def user_language(environ=os.environ) -> str:
    """The language to speak: ITREX_CHAT_LANG, else the locale's, else English."""
    for variable in ("ITREX_CHAT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(variable, ""):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@functools.cache
def catalogue(language: str) -> dict[str, str]:
    """English text to its translation; empty for English."""
    if language == "en":
        return {}
    text = resources.files(__package__).joinpath("locale", f"{language}.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def _(text: str, /, **fields) -> str:
    """`text` in the user's language with its `{fields}` filled in."""
    return catalogue(user_language()).get(text, text).format(**fields)
