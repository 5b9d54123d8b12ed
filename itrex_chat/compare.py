"""Compare the variants' answers and figures.

python -m itrex_chat.compare
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.comparison.figures import NAMES
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _, speaking
from itrex_chat.settings import options

if TYPE_CHECKING:
    from itrex_chat.comparison import Comparison

GATE_CLOSED = 3  # the exit code where a --fail-if holds
FILES = ("comparison.html", "comparison.md", "comparison.json", "comparison.csv", "comparison-figures.csv")


def compare(runs: list[Path], out: Path | None = None) -> "Comparison":
    """Compare runs and write FILES into `out` (the last run's folder, if None). A run may be named by its answers."""
    from itrex_chat.comparison import compare_runs
    from itrex_chat.foundation import files
    from itrex_chat.report import as_html
    from itrex_chat.report.markdown import as_markdown
    from itrex_chat.report.spreadsheets import as_csv, figures_csv
    from itrex_chat.runs.record import folder_of

    runs = [folder_of(run) for run in runs]
    with files.results_in(out, RunError) if out else contextlib.nullcontext():
        comparison = compare_runs(runs)
        out = out or runs[-1]
        with files.disk_errors(RunError, _("Writing to {folder}", folder=out)):
            files.write_text(out / "comparison.html", as_html(comparison))
            files.write_text(out / "comparison.md", as_markdown(comparison))
            files.write_json(out / "comparison.json", comparison.as_dict())
            files.write_text(out / "comparison.csv", as_csv(comparison))
            files.write_text(out / "comparison-figures.csv", figures_csv(comparison))
    return comparison


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.comparison import gate
    from itrex_chat.report.terminal import as_text
    from itrex_chat.runs.record import folder_of, latest

    conditions = [gate.parse(text) for text in arguments.fail_if]
    with speaking(arguments.lang):
        runs = [folder_of(run) for run in arguments.runs] or [latest()]
        comparison = compare(runs, arguments.out)
        tell(as_text(comparison))
        tell(_("Written to {folder}: {files}", folder=arguments.out or runs[-1], files=", ".join(FILES)))
        failures = gate.failures(comparison, conditions)
        for failure in failures:
            tell(f"itrex_chat: {failure}", file=sys.stderr)
    return GATE_CLOSED if failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("compare", _("Compare the answers and figures of a model's variants."))
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=_("folders of runs; default: the newest"))
    options.add_out(parser, _("where to write; default: the last run's folder"))
    options.add_language(parser, _("the language of the report; default: the locale's"))
    parser.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help=_(
            "exit with {code} where this holds for a variant, such as 'kld_mean>0.1'; any number of times. "
            "Figures: {names}; .low and .high are the ends of a measured one's interval",
            code=GATE_CLOSED,
            names=", ".join(NAMES),
        ),
    )
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
