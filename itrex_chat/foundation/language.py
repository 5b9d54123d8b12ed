"""Messages in the user's language.

Texts are written in English where they are used, with named fields, and looked
up in `locale/<language>.yaml` by that English text. A text that has no
translation is shown in English.
"""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator, Mapping

LANGUAGES = ("en", "zh")
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("language", default=None)


def user_language(environ: Mapping[str, str] = os.environ) -> str:
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
    from importlib import resources

    import yaml

    text = resources.files(__package__).joinpath("locale", f"{language}.yaml").read_text("utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the other takes ten times as long


@contextlib.contextmanager
def speaking(language: str | None) -> Iterator[None]:
    """Speak a language inside the block; None is the user's."""
    token = _chosen.set(language or _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


def spoken_language() -> str:
    """The language that `_` speaks now."""
    return _chosen.get() or user_language()


def _(text: str, /, **fields: object) -> str:
    """`text` in the user's language with its `{fields}` filled in."""
    return catalogue(_chosen.get() or user_language()).get(text, text).format(**fields)
