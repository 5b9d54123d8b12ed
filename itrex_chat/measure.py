"""Measure what the variants of a run predict where the baseline's answers, or a text, are given token by token.

python -m itrex_chat.measure --text book.txt
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat import cluster
from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings import options, shard
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.kv_cache import FORMATS
from itrex_chat.settings.variant import MOST_PRECISE_FIRST, titled

if TYPE_CHECKING:
    from itrex_chat.jobs.executor import Executor
    from itrex_chat.quality.record import ModelQuality
    from itrex_chat.settings.shard import Shard


def measure(
    run: Path,
    texts: Sequence[Path] = (),
    variants: list[str] | None = None,
    limit: int | None = None,
    command: str = "",
    formats: Sequence[str] = (),
    executor: "Executor | None" = None,
    shard: "Shard | None" = None,
) -> "dict[str, ModelQuality]":
    """Measure the models of a run and keep the figures in its folder, where `compare` finds them.

    The most precise variant that answered is the baseline; `variants` None are
    the others of the run. What is in the cache is not computed again. Of each
    text the first `limit` tokens are used. Each variant is measured with its keys and values in each of the `formats`,
    too, against the same baseline. `executor` does the work (None: processes here). With a `shard`, only its part of the
    passages is gone through, for the cache, and nothing is kept in the run. Raises RunError.
    """
    from itrex_chat.foundation import files
    from itrex_chat.quality import measuring
    from itrex_chat.quality import record as quality_record
    from itrex_chat.quality.passages import of_answers
    from itrex_chat.runs.content import ModelRun
    from itrex_chat.runs.record import RunRecord

    record = RunRecord.read(run)
    files.writable(run, RunError)
    measured: dict[str, ModelQuality] = {}
    alone = ""
    try:
        for model in record.content.spec.models:
            label = model.label
            known = record.content.models.get(label, ModelRun()).variants
            ready = [name for name in MOST_PRECISE_FIRST if name in known and known[name].load]
            if not ready:
                continue
            if not (variants or ready[1:]):
                alone = ready[0]
                continue
            recipe, answers = recipes.from_dict(model.recipe), of_answers(record.answers_of(label, ready[0]))
            found = measuring.measure(
                recipe, ready[0], variants or ready[1:], answers, list(texts), limit, executor, None, shard
            )
            if formats:
                found = measuring.also_kept(found, recipe, formats, answers, list(texts), limit, executor, shard)
            measured[label] = quality_record.of(found, command)
            if not shard:
                quality_record.write(run, measured)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            _(
                "{runs}: the record of the run is damaged ({reason}).",
                runs=run,
                reason=f"{type(error).__name__}: {error}",
            )
        ) from error
    if not measured and alone:
        raise RunError(
            _(
                "{run} has answers of {variant} alone, and nothing to compare them with; name others with --variants, such "
                "as bf16.",
                run=run,
                variant=titled(alone),
            )
        )
    if not measured and record.answers:
        raise RunError(
            _("{run} has answers of other engines only; measure is for this program's own variants.", run=run)
        )
    if not measured:
        raise RunError(_("{run} has no answers yet; let it go on with: python -m itrex_chat.ask", run=run))
    return measured


def report(label: str, quality: "ModelQuality") -> str:
    """The figures for a terminal."""
    from itrex_chat.report.quality_tables import quality_tables
    from itrex_chat.report.terminal import aligned

    lines = [f"=== {label}"]
    for rows in quality_tables(quality).values():
        lines += ["", *aligned(rows)]
    for name, variant in quality.variants.items():
        if variant.reason:
            lines.append(f"{titled(name)}: {variant.reason}")
    lines += [
        "",
        _(
            "{size} of the baseline's predictions are kept in the cache; the next variant is compared without "
            "computing them again.",
            size=readable(quality.reference_bytes),
        ),
    ]
    return "\n".join(lines)


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.runs.record import latest

    run = arguments.run or latest()
    variants = arguments.variants and list(dict.fromkeys(name for name in arguments.variants.split(",") if name))
    for name in variants or ():
        one_of("--variants", name, MOST_PRECISE_FIRST)
    formats = options.formats(arguments)
    part, invocation = shard.chosen(arguments), command_line.invocation("measure")
    with cluster.opened(arguments.executor) as executor:
        measured = measure(run, arguments.text, variants, arguments.tokens, invocation, formats, executor, part)
    if part:
        tell(_("Part {shard} is in the cache; when all are there: the same command without --shard", shard=part))
    else:
        for label, quality in measured.items():
            tell(report(label, quality))
        tell(_("Kept in {folder}; now: python -m itrex_chat.compare {folder}", folder=run))
    failed = all(variant.reason for quality in measured.values() for variant in quality.variants.values())
    return command_line.FAILED if failed else 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "measure", _("Measure how far the variants' predictions are from the baseline's, token by token.")
    )
    options.add_run(parser)
    options.add_texts(parser, _("texts in UTF-8 to measure on, besides the baseline's answers"))
    parser.add_argument(
        "--variants",
        metavar="LIST",
        help=_(
            "variants with commas between them, of {names}; default: those of the run",
            names=", ".join(MOST_PRECISE_FIRST),
        ),
    )
    options.add_formats(
        parser,
        _(
            "measure each variant with its keys and values in these formats, too, with commas between them, of {names}; "
            "the baseline's stay as they are",
            names=", ".join(FORMATS),
        ),
    )
    cluster.add_option(parser)
    shard.add_option(
        parser,
        _(
            "go through one part of so many, such as 2/8, of the answers and texts, for a cache that all parts share; without "
            "it, what is there is put together"
        ),
    )
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
