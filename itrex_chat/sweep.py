"""Several recipes of one model in one table and one chart: quality against size, speed and the time to make it.

python -m itrex_chat.sweep --model qwen2.5-1.5b-instruct --text book.txt
"""

import argparse
import csv
import dataclasses
import io
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat import cluster
from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _, speaking
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import options
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.kv_cache import FORMATS
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import DENSE
from itrex_chat.sweeps.grid import GRID, label

if TYPE_CHECKING:
    from itrex_chat.jobs.executor import Executor
    from itrex_chat.jobs.passage import Passage
    from itrex_chat.sweeps.sweeping import Outcome

SCHEMA_VERSION = 1
CSV_FIELDS = (
    "recipe",
    "disk_bytes",
    "bits_per_weight",
    "positions",
    *(
        f"{name}{end}"
        for name in ("kld_mean", "kld_more_than_first", "same_top", "ppl_ratio")
        for end in ("", "_low", "_high")
    ),
    "tokens_per_second",
    "prefill_tokens_per_second",
    "peak_memory",
    "algorithm",
    "budget",
    "build_seconds",
)


def sweep(
    recipe: Recipe,
    grid: Sequence[Quantization] = GRID,
    baseline: str = "fp32",
    answers: "Sequence[Passage]" = (),
    texts: Sequence[Path] = (),
    limit: int | None = None,
    keep: bool = False,
    out: Path | None = None,
    command: str = "",
    told: "Callable[[Outcome], object]" = lambda outcome: None,
    formats: Sequence[str] = (),
    executor: "Executor | None" = None,
) -> "tuple[list[Outcome], Path]":
    """Measure quantizations of a model on answers and texts, and write sweep.html, .json and .csv.

    The first of the grid is what the others are compared with; `told` gets each outcome as it comes. Returns the
    outcomes and the folder that was written. Each is tried with its keys and values in each of the `formats`, too.
    `executor` does the work (None: processes here). Raises RunError.
    """
    from itrex_chat.foundation import files
    from itrex_chat.sweeps.sweeping import sweep as outcomes_of

    out = out or cache_home() / "sweeps" / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    outcomes = []
    with files.results_in(out, RunError):
        for outcome in outcomes_of(
            recipe, baseline, list(grid), list(answers), list(texts), limit, keep, executor, formats
        ):
            outcomes.append(outcome)
            told(outcome)
            _write(out, recipe, baseline, outcomes, command)  # what is there is there, should the rest be interrupted
    return outcomes, out


def _write(out: Path, recipe: Recipe, baseline: str, outcomes: "list[Outcome]", command: str) -> None:
    from itrex_chat.foundation import files, machine
    from itrex_chat.report.sweeps import sweep_page

    with files.disk_errors(RunError, _("Writing to {folder}", folder=out)):
        files.write_text(out / "sweep.html", sweep_page(recipe.name, baseline, outcomes, command))
        files.write_json(
            out / "sweep.json",
            {
                "schema": SCHEMA_VERSION,
                "model": recipe.as_dict(),
                "baseline": baseline,
                "machine": machine.description(),
                "command": command,
                "recipes": [dataclasses.asdict(outcome) for outcome in outcomes],
            },
        )
        files.write_text(out / "sweep.csv", as_csv(outcomes))


def as_csv(outcomes: "list[Outcome]") -> str:
    """One line for each recipe that was measured, in plain numbers."""
    from itrex_chat.foundation.harmless import for_spreadsheet
    from itrex_chat.quality.intervals import Estimate

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for outcome in outcomes:
        if outcome.total:
            figures, difference = outcome.total.figures, outcome.difference or Estimate(0.0)
            estimates = (figures["kld_mean"], difference, figures["same_top"], figures["ppl_ratio"])
            writer.writerow(
                [
                    for_spreadsheet(outcome.label),
                    outcome.disk_bytes,
                    outcome.bits_per_weight,
                    outcome.total.positions,
                    *(end for found in estimates for end in (found.value, found.low, found.high)),
                    outcome.tokens_per_second,
                    outcome.prefill_tokens_per_second,
                    outcome.peak_memory,
                    outcome.quantization.effective_algorithm,
                    outcome.quantization.effective_budget or None,
                    outcome.build_seconds,
                ]
            )
    return text.getvalue()


def parsed(text: str) -> Quantization:
    """A recipe as users write it: int4_clip:128, int4_clip:128:none for another head, int4_clip:128:none:gptq for another
    algorithm than rtn, int4_clip:128:none:gptq:4.6 with a budget of bits per weight. What is left out is the default."""
    weight_dtype, _colon, rest = text.partition(":")
    group, _colon, rest = rest.partition(":")
    head, _colon, rest = rest.partition(":")
    algorithm, _colon, budget = rest.partition(":")
    if (group and not group.isdigit()) or not re.fullmatch(r"(\d+(\.\d*)?)?", budget):
        raise RunError(
            _(
                "--recipes: {text!r} cannot be read; write WEIGHT_DTYPE:GROUP:HEAD:ALGORITHM:BUDGET, such as int4_clip:64:int8, "
                "int4_fullrange:32:int8:gptq or int4_fullrange:32:int8:gptq:4.6.",
                text=text,
            )
        )
    return Quantization(
        weight_dtype=weight_dtype,
        group_size=int(group or 32),
        head=head or "int8",
        algorithm=algorithm or "rtn",
        budget=float(budget or 0),
    )


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.quality.passages import of_answers
    from itrex_chat.report.sweeps import sweep_rows, sweep_verdict
    from itrex_chat.report.terminal import aligned
    from itrex_chat.runs.record import answers_of

    with speaking(arguments.lang):
        one_of("--baseline", arguments.baseline, DENSE)
        recipe = recipes.load(arguments.model, command_line.settings(arguments))
        grid = [parsed(text) for text in arguments.recipes.split(",")] if arguments.recipes else GRID
        answers = of_answers(answers_of(arguments.run, arguments.baseline)) if arguments.run else []
        if not answers and not arguments.text:
            raise RunError(_("Name what to measure on: --text FILE, or --run RUN for the answers of a run."))
        formats = options.formats(arguments)
        with cluster.opened(arguments.executor) as executor:
            outcomes, out = sweep(
                recipe,
                list(dict.fromkeys(grid)),
                arguments.baseline,
                answers,
                arguments.text,
                arguments.tokens,
                arguments.keep,
                arguments.out,
                command_line.invocation("sweep"),
                told=lambda o: tell(f"{o.label}: {o.reason}" if o.reason else aligned(sweep_rows([o]))[1]),
                formats=formats,
                executor=executor,
            )
        tell("\n" + "\n".join(aligned(sweep_rows(outcomes))))
        tell("\n".join(sweep_verdict(outcomes)))
        tell(_("Written to {folder}: {files}", folder=out, files="sweep.html, sweep.json, sweep.csv"))
    return command_line.FAILED if any(outcome.reason for outcome in outcomes) else 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "sweep", _("Measure several recipes of one model: quality against size, speed and the time to make it.")
    )
    options.add_measuring(parser)
    parser.add_argument(
        "--recipes",
        metavar="LIST",
        help=_(
            "WEIGHT_DTYPE:GROUP:HEAD:ALGORITHM:BUDGET with commas between them, the first is compared with; default: {default}",
            default=", ".join(label(each) for each in GRID),
        ),
    )
    options.add_formats(
        parser,
        _(
            "try each recipe with keys and values in these formats, too, with commas between them, of {names}; the "
            "baseline's stay as they are",
            names=", ".join(FORMATS),
        ),
    )
    cluster.add_option(parser)
    parser.add_argument("--keep", action="store_true", help=_("keep the artifacts that were made for this"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
