"""One progress bar for all long work: what is done, the rate and the time left, on standard error."""

import sys
from typing import Any

from tqdm import tqdm

from itrex_chat.foundation.harmless import for_terminal

_silent = False


def silence() -> None:
    """Show no bars any more in this process: its standard error has lines for programs."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether bars are shown no more."""
    return _silent


def bar(description: str, total: int | None, unit: str = "B", **options: Any) -> tqdm:
    """A bar over `total` units; bytes are scaled. Redirected, it prints a line now and then."""
    interactive = sys.stderr.isatty()
    scaled = unit == "B"
    return tqdm(
        desc=for_terminal(description),
        total=total,
        unit=unit,
        unit_scale=scaled,
        unit_divisor=1000 if scaled else 1,
        file=sys.stderr,
        dynamic_ncols=interactive,
        mininterval=0.1 if interactive else 10,
        leave=False,
        disable=_silent,
        **options,
    )
