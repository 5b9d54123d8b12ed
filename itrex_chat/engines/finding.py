"""What was found when a machine was looked at, for `doctor`."""

from dataclasses import dataclass

GOOD, NOTE, BAD = "ok", "--", "!!"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: GOOD, NOTE (absent, and not needed) or BAD, and the command or step that mends it."""

    state: str
    text: str
    remedy: str = ""
