"""Arguments that ITREX's classes have and that mean nothing here."""

from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _


def accept(where: str, given: dict, harmless: dict[str, tuple]) -> None:
    """Refuse an argument that is not known, or one whose value is not among its harmless ones."""
    for name, value in given.items():
        if name not in harmless:
            raise RecipeError(
                _("{where} has no argument {name}.{hint}", where=where, name=name, hint=did_you_mean(name, harmless))
            )
        if value not in harmless[name]:
            raise RecipeError(
                _(
                    "{where}: {name}={value!r} is not supported on a CPU by this program; leave it out.",
                    where=where,
                    name=name,
                    value=value,
                )
            )
