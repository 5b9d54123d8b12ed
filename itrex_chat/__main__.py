"""`itrex-chat VERB …`, the same as `python -m itrex_chat.VERB …`."""

import sys
from importlib import import_module

from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _

VERBS = (
    "models",
    "pull",
    "push",
    "quantize",
    "ask",
    "chat",
    "serve",
    "measure",
    "compare",
    "sheet",
    "sweep",
    "merge",
    "attribute",
    "online",
    "judge",
    "cache",
    "doctor",
)
ELSEWHERE = {"chat": "talk"}  # verbs whose name a room has, and their modules; the room's `__main__.py` calls them


def module_of(verb: str) -> str:
    """The module of a verb, within the package."""
    return ELSEWHERE.get(verb, verb)


def main(argv: list[str] | None = None) -> int:
    verb, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if verb in VERBS:
        return import_module(f"itrex_chat.{module_of(verb)}").main(rest)
    command_line.set_streams()
    return command_line.framed(lambda: _usage(verb))


def _usage(word: str) -> int:
    asked_for_help = word in ("-h", "--help")
    out = sys.stdout if asked_for_help else sys.stderr
    if word and not asked_for_help:
        tell(_("There is no command {name}.{hint}", name=word, hint=did_you_mean(word, VERBS)), file=out)
    tell(_("Use: itrex-chat {verbs} … (--help after each)", verbs="|".join(VERBS)), file=out)
    return 0 if asked_for_help else 2


if __name__ == "__main__":
    sys.exit(main())
