"""Checking a value against the known ones, with a hint at the likely meant one."""

import difflib
from collections.abc import Iterable

from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """ " Did you mean X?" for the known name closest to `word`, or nothing."""
    close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
    return _(" Did you mean {name}?", name=close[0]) if close else ""


def one_of(key: str, value: object, choices: Iterable[object], error: type[Exception] = RecipeError) -> None:
    """Raise `error` unless `value` is one of `choices`."""
    if isinstance(value, bool) or value not in (choices := tuple(choices)):
        raise error(
            _(
                "{key} cannot be {value!r}.{hint} Choose one of: {choices}.",
                key=key,
                value=value,
                hint=did_you_mean(value, choices),
                choices=", ".join(map(str, choices)),
            )
        )


def whole_within(key: str, value: object, low: int, high: int) -> None:
    """Raise RecipeError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise RecipeError(
            _(
                "{name} cannot be {value!r}: it is a number from {low} to {high}.",
                name=key,
                value=value,
                low=low,
                high=high,
            )
        )


def called(kind: type) -> str:
    """What values of a type that YAML has are called."""
    return {
        str: _("a text"),
        int: _("a whole number"),
        float: _("a number"),
        bool: _("true or false"),
        list: _("a list"),
    }.get(kind) or _("a section")
