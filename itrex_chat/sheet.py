"""Have people score answers without knowing which variant gave them.

python -m itrex_chat.sheet make sheet.csv
python -m itrex_chat.sheet read sheet.csv
"""

import argparse
import sys
from pathlib import Path

from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _, speaking
from itrex_chat.settings import options


def make(run: Path, out: Path) -> int:
    """Write a blind score sheet of a run's answers; how many items it has. Raises RunError."""
    from itrex_chat.comparison import compare_runs
    from itrex_chat.foundation import files
    from itrex_chat.ratings import sheet

    with files.results_in(out.absolute().parent, RunError):
        return sheet.make(compare_runs([run]).differing(), run, out)


def read(filled: Path, run: Path, rater: str | None = None) -> int:
    """Keep the ratings of a filled sheet with its run, where `compare` finds them. Raises RunError."""
    from itrex_chat.ratings import sheet

    return sheet.read(filled, run, rater or filled.stem)


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.ratings.sheet import FOLDER
    from itrex_chat.runs.record import latest

    with speaking(arguments.lang):
        if arguments.action == "read" and not arguments.sheet:
            raise RunError(_("Say which sheet: python -m itrex_chat.sheet read FILE"))
        run = arguments.run or latest()
        if arguments.action == "make":
            out = arguments.sheet or Path("score-sheet.csv")
            count = make(run, out)
            tell(
                _(
                    "{count} pairs of answers in {out}. Give each answer one to five stars, as a number, and - where a "
                    "criterion does not apply. The key stays in {folder}: do not look.",
                    count=count,
                    out=out,
                    folder=run / FOLDER,
                )
            )
            tell(_("Then: python -m itrex_chat.sheet read {out} --run {run}", out=out, run=run))
            return
        count = read(arguments.sheet, run, arguments.rater)
        tell(
            _("{count} pairs of ratings kept with {run}; now: python -m itrex_chat.compare {run}", count=count, run=run)
        )


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("sheet", _("Write a blind score sheet of a run's answers, or read a filled one."))
    parser.add_argument("action", choices=("make", "read"))
    parser.add_argument("sheet", nargs="?", type=Path, metavar="FILE", help=_("the sheet, a CSV file"))
    parser.add_argument("--run", type=Path, metavar="RUN", help=_("the folder of a run; default: the newest"))
    parser.add_argument("--rater", metavar="NAME", help=_("who filled it; default: the file's name"))
    options.add_language(parser, _("the language of the sheet; default: the locale's"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
