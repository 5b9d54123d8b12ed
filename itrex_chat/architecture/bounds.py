"""What the values of a decoder's configuration may be, whoever wrote it.

The kernels in C compute addresses from these values and check little more than that they fit together, so a description
(`DecoderConfig` and its parts) refuses at once what it cannot be. Products of sizes within these bounds fit into 32 bits
where the kernels count outputs, and into 64 where they count values.
"""

import math
from collections.abc import Container

from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

SIZE = 1 << 24  # less than: rows and columns of matrices, tokens of a context
LAYERS = 1 << 12
WINDOW = 1 << 31
SHOWN = 60  # characters of a value


def refused(name: str, value: object) -> CheckpointError:
    """The error that names a value which cannot be."""
    return CheckpointError(
        _("The model's configuration is not one: {name} cannot be {value}.", name=name, value=repr(value)[:SHOWN])
    )


def whole(name: str, value: object, limit: int = SIZE, least: int = 1) -> None:
    """An int in [least, limit). Raises CheckpointError."""
    if type(value) is not int or not least <= value < limit:
        raise refused(name, value)


def number(name: str, value: object, most: float, least: float = 0.0) -> None:
    """A finite number in [least, most]. Raises CheckpointError."""
    if type(value) not in (int, float) or not (math.isfinite(value) and least <= value <= most):  # type: ignore[arg-type,operator]
        raise refused(name, value)


def flags(of: object, names: tuple[str, ...]) -> None:
    """Each of these attributes is true or false. Raises CheckpointError."""
    for name in names:
        if type(value := getattr(of, name)) is not bool:
            raise refused(name, value)


def one_of(name: str, value: object, known: Container[object]) -> None:
    """A text, or None, among `known`. Raises CheckpointError."""
    if not isinstance(value, str | None) or value not in known:
        raise refused(name, value)
