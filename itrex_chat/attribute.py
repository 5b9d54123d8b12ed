"""Where the loss comes from: rounded weights, the head, rounded activations; and which layers.

python -m itrex_chat.attribute --model qwen2.5-1.5b-instruct --text book.txt
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _, speaking
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import options
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import DENSE

if TYPE_CHECKING:
    from itrex_chat.jobs.passage import Passage
    from itrex_chat.quality.attribution import Attribution

SCHEMA_VERSION = 1
SHOWN = 5  # layers


def attribute(
    recipe: Recipe,
    baseline: str = "fp32",
    answers: "Sequence[Passage]" = (),
    texts: Sequence[Path] = (),
    limit: int | None = None,
    layers: bool = True,
    out: Path | None = None,
    command: str = "",
) -> "tuple[Attribution, Path]":
    """Attribute a recipe's loss on answers and texts and write attribution.html and .json; the folder too.

    Layer by layer takes as many passes over the tokens as the model has layers, and the memory of the baseline.
    Raises RunError.
    """
    from itrex_chat.foundation import files, machine
    from itrex_chat.jobs.executor import LocalExecutor
    from itrex_chat.quality import attribution
    from itrex_chat.report.sweeps import attribution_page

    executor = LocalExecutor()
    out = out or cache_home() / "attributions" / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with files.results_in(out, RunError):
        steps, measured = attribution.steps(recipe, baseline, list(answers), list(texts), limit, executor)
        found = attribution.Attribution(
            sum(passage.positions for passage in measured.passages),
            len(measured.passages),
            measured.plan.kernel,
            steps,
            attribution.layers(recipe, baseline, measured, executor) if layers else [],
        )
        with files.disk_errors(RunError, _("Writing to {folder}", folder=out)):
            files.write_text(out / "attribution.html", attribution_page(recipe.name, baseline, found, command))
            files.write_json(
                out / "attribution.json",
                {
                    "schema": SCHEMA_VERSION,
                    "model": recipe.as_dict(),
                    "baseline": baseline,
                    "machine": machine.description(),
                    "command": command,
                    **dataclasses.asdict(found),
                },
            )
    return found, out


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.quality.passages import of_answers
    from itrex_chat.report.sweeps import attribution_verdict, layer_rows, step_rows
    from itrex_chat.report.terminal import aligned
    from itrex_chat.runs.record import answers_of

    with speaking(arguments.lang):
        one_of("--baseline", arguments.baseline, DENSE)
        recipe = recipes.load(arguments.model, command_line.settings(arguments))
        answers = of_answers(answers_of(arguments.run, arguments.baseline)) if arguments.run else []
        if not answers and not arguments.text:
            raise RunError(_("Name what to measure on: --text FILE, or --run RUN for the answers of a run."))
        found, out = attribute(
            recipe,
            arguments.baseline,
            answers,
            arguments.text,
            arguments.tokens,
            not arguments.no_layers,
            arguments.out,
            command_line.invocation("attribute"),
        )
        tell("\n".join(aligned(step_rows(found))))
        if found.layers:
            tell("\n" + "\n".join(aligned(layer_rows(found, SHOWN))))
        tell("\n" + "\n".join(attribution_verdict(found)))
        tell(_("Written to {folder}: {files}", folder=out, files="attribution.html, attribution.json"))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("attribute", _("Find out where the loss of a quantized model comes from."))
    options.add_measuring(parser)
    parser.add_argument("--no-layers", action="store_true", help=_("leave out layer by layer, which takes longest"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
