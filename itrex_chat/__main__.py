"""`itrex-chat VERB …`, the same as `python -m itrex_chat.VERB …`."""

import sys
from importlib import import_module

from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.language import _

VERBS = ("quantize", "ask", "measure", "compare", "sheet", "sweep", "attribute", "online", "judge", "cache", "doctor")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in VERBS:
        word = argv[0] if argv else ""
        asked_for_help = word in ("-h", "--help")
        out = sys.stdout if asked_for_help else sys.stderr
        if word and not asked_for_help:
            print(_("There is no command {name}.{hint}", name=word, hint=did_you_mean(word, VERBS)), file=out)
        print(_("Use: itrex-chat {verbs} … (--help after each)", verbs="|".join(VERBS)), file=out)
        return 0 if asked_for_help else 2
    return import_module(f"itrex_chat.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
