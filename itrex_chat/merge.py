"""Join the shards of a run into the run that one process would have made.

python -m itrex_chat.merge runs/1 runs/2 runs/3 --out runs/whole
"""

import argparse
import sys
from pathlib import Path

from itrex_chat.foundation import command_line
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.runs.merging import merge

    record = merge(arguments.runs, arguments.out)
    tell(_("{count} answers in {folder}", count=len(record.answers), folder=record.folder))
    tell(_("Compare them: python -m itrex_chat.compare {folder}", folder=record.folder))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("merge", _("Join the parts of a run that were asked with --shard."))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=_("the folders of the parts, in any order"))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=_("where to keep the whole run"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
