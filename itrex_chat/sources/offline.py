"""Without the network because the user wants it so."""

import os

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

VARIABLES = ("ITREX_CHAT_OFFLINE", "HF_HUB_OFFLINE")
NO = ("", "0", "false", "no", "off")


def is_asked_for() -> bool:
    """Whether nothing may be asked of the network."""
    return any(os.environ.get(variable, "").lower() not in NO for variable in VARIABLES)


def lacking(name: str, count: int = 0, size: int = 0) -> SourceError:
    """What cannot be had without the network."""
    if count:
        return SourceError(
            _(
                "{name} is not whole on this machine, and the network is not to be used: {count} files are missing ({size}). "
                "Unset ITREX_CHAT_OFFLINE and HF_HUB_OFFLINE to download them.",
                name=name,
                count=count,
                size=readable(size),
            )
        )
    return SourceError(
        _(
            "{name} is not on this machine, and the network is not to be used. Unset ITREX_CHAT_OFFLINE and HF_HUB_OFFLINE "
            "to download it, or name a local folder with --model FOLDER.",
            name=name,
        )
    )
