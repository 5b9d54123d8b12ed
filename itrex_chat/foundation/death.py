"""How a process died, in words that a sentence can hold."""

import signal

from itrex_chat.foundation.language import _


def how(code: int) -> str:
    """What the exit code of a process that failed says (negative: the signal that ended it)."""
    reasons = {
        -9: _("it was killed, probably because the memory ran out"),
        -4: _("it used an instruction that this processor does not have"),
        -11: _("it crashed: segmentation fault"),
        -6: _("it crashed: aborted"),
        -signal.SIGBUS: _("a file that it was reading became shorter, or its disk failed"),
    }
    return reasons.get(code) or _("it died (exit code {code})", code=code)
