"""Processes of this package, started so that nothing in the working folder is imported."""

import os
import sys

from itrex_chat.foundation.places import CHECKOUT


def command(module: str) -> list[str]:
    """What runs a module of this package in this interpreter."""
    return [sys.executable, "-P", "-m", module]


def environment(**variables: str) -> dict[str, str]:
    """This process's variables and some more, with this package found wherever the working folder is."""
    search = [str(CHECKOUT)] if CHECKOUT else []
    search += filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | variables | {"PYTHONPATH": os.pathsep.join(search)}
