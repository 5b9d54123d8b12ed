"""Without the network because the user wants it so."""

import argparse
import os

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

VARIABLE, OF_HUGGING_FACE = "ITREX_CHAT_OFFLINE", "HF_HUB_OFFLINE"
NO = ("", "0", "false", "no", "off")


class Offline(argparse.Action):
    """An option for commands: nothing is asked of the network in this process and those that it starts."""

    def __init__(self, option_strings: list[str], dest: str, **options: object):
        super().__init__(option_strings, dest, nargs=0, help=str(options.get("help", "")))

    def __call__(self, *_of_the_parser: object) -> None:
        os.environ[VARIABLE] = "1"


def is_asked_for(hub: str = "") -> bool:
    """Whether nothing may be asked of the network, or of this hub."""
    return _is_set(VARIABLE) or hub == "huggingface" and _is_set(OF_HUGGING_FACE)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in NO


def not_asked(name: str) -> SourceError:
    """Whether something has changed cannot be asked."""
    return SourceError(
        _(
            "Whether {name} has changed cannot be asked, as the network is not to be used. Unset {variable}, or leave out "
            "--refresh.",
            name=name,
            variable=VARIABLE if _is_set(VARIABLE) else OF_HUGGING_FACE,
        )
    )


def lacking(name: str, count: int = 0, size: int = 0) -> SourceError:
    """What cannot be had without the network."""
    fields = {"name": name, "variable": VARIABLE if _is_set(VARIABLE) else OF_HUGGING_FACE}
    if count:
        return SourceError(
            _(
                "{name} is not whole on this machine, and the network is not to be used: {count} files are missing ({size}). "
                "Unset {variable} to download them.",
                count=count,
                size=readable(size),
                **fields,
            )
        )
    return SourceError(
        _(
            "{name} is not on this machine, and the network is not to be used. Unset {variable} "
            "to download it, or name a local folder with --model FOLDER.",
            **fields,
        )
    )
