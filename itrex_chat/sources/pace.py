"""How a download goes: connections, sizes and times, in one place, so that tests and benchmarks set them."""

import os
from dataclasses import dataclass

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _

PATIENCE, CONNECTIONS = "ITREX_CHAT_DOWNLOAD_PATIENCE", "ITREX_CHAT_DOWNLOAD_CONNECTIONS"


@dataclass(frozen=True)
class Pace:
    """Connections at once, bytes of a range and of a noted piece, seconds of everything else.

    `patience` is how long no byte may come, `patience_for_listing` how long a hub may not answer at first, `silence` how
    long a connection may say nothing; pauses between tries grow from `first_pause` to `longest_pause`. A range that takes
    longer than `worth_dividing` is shared with a connection that has nothing to do.
    """

    connections: int = 8
    range: int = 16 << 20
    piece: int = 1 << 20
    patience: float = 300
    patience_for_listing: float = 30
    silence: float = 20
    first_pause: float = 0.5
    longest_pause: float = 20
    worth_dividing: float = 2  # what of a shorter range is on its way already would come twice

    @classmethod
    def chosen(cls) -> "Pace":
        """With the patience and the number of connections that the environment asks for. Raises SourceError."""
        patience = _number(PATIENCE, cls.patience, 1, 1e6)
        return cls(
            connections=round(_number(CONNECTIONS, cls.connections, 1, 64)),
            patience=patience,
            patience_for_listing=min(cls.patience_for_listing, patience),
        )


def _number(variable: str, default: float, least: float, most: float) -> float:
    told = os.environ.get(variable) or default
    try:
        number = float(told)
        if least <= number <= most:
            return number
    except ValueError:
        pass
    raise SourceError(
        _(
            "{variable} must be a number from {least} to {most}, not {value!r}.",
            variable=variable,
            least=least,
            most=f"{most:.0f}",
            value=told,
        )
    )
