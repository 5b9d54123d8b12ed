"""Have another model judge which of two answers is better, in both orders.

OPENAI_API_KEY=… python -m itrex_chat.judge --model gpt-4o --endpoint https://api.openai.com/v1
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.endpoints import ADDRESS, KEY
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings import options

if TYPE_CHECKING:
    from itrex_chat.endpoints.endpoint import Endpoint
    from itrex_chat.ratings.judgements import Judged


def judge(run: Path, endpoint: "Endpoint", embedder: "Endpoint | None" = None) -> "dict[str, dict[str, list[Judged]]]":
    """Judge all pairs of a run's answers that differ and keep the judgements with it. Raises RunError.

    What this judge has said already is not asked again, and what other judges have said stays.
    """
    from itrex_chat.comparison import compare_runs
    from itrex_chat.foundation import files, progress
    from itrex_chat.ratings import judgements, judging

    pairs = compare_runs([run]).differing()
    if not pairs:
        raise RunError(_("There is nothing to score in {run}: no two answers differ.", run=run))
    files.writable(run, RunError)
    found = judgements.given_by(run, endpoint.model)
    with progress.bar(_("judging"), len(pairs), "pairs") as bar:
        for pair in pairs:
            given = found.setdefault(pair.model, {}).setdefault(pair.variant, [])
            before = next((judgement for judgement in given if judgement.id == pair.id), None)
            if before is None or embedder and before.similarity is None:
                given[:] = [
                    *(judgement for judgement in given if judgement is not before),
                    judging.judge(endpoint, pair, embedder),
                ]
                judgements.write(run, endpoint.model, found)
            bar.update(1)
    return judgements.read(run)


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.comparison import compare_runs
    from itrex_chat.endpoints.endpoint import Endpoint
    from itrex_chat.report.quality_tables import judged_lines
    from itrex_chat.runs.record import latest

    run = arguments.run or latest()
    embedder = Endpoint.of(arguments.embeddings, arguments.endpoint) if arguments.embeddings else None
    judged = judge(run, Endpoint.of(arguments.model, arguments.endpoint), embedder)
    bases = {model.model: model.baseline for model in compare_runs([run]).models}
    for label in (label for label in judged if label in bases):
        for line in judged_lines(bases[label], judged[label]):
            tell(f"{label}: {line}")


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("judge", _("Have another model judge the answers of a run in pairs."))
    options.add_run(parser)
    options.add_endpoint(parser, ADDRESS, KEY)
    parser.add_argument(
        "--embeddings",
        metavar="NAME",
        help=_("an embedding model at the endpoint, to tell how alike the answers' meanings are"),
    )
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
