"""Ask the same questions to the variants of models.

python -m itrex_chat.ask --model chatglm3-6b --variants fp32,int4
"""

import argparse
import sys
from pathlib import Path

from itrex_chat import cluster
from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings import engine_options, shard
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import PRECISIONS


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.artifacts.cached import cached_models
    from itrex_chat.runs.asking import ask

    settings = command_line.settings(arguments)
    if arguments.max_new_tokens:
        settings += ["generation.max_new_tokens", str(arguments.max_new_tokens)]
    models = [recipes.load(name, settings) for name in arguments.model] or cached_models(settings)
    variants = arguments.variants and list(dict.fromkeys(name for name in arguments.variants.split(",") if name))
    if variants == []:
        raise RunError(_("--variants names no variant; choose some of: {names}.", names=", ".join(PRECISIONS)))
    for name in variants or ():
        one_of("--variants", name, PRECISIONS)
    asked = question_sets.load(arguments.prompts) if arguments.prompts else None
    engines, options = engine_options.chosen(arguments)
    part = shard.chosen(arguments)
    with cluster.opened(arguments.executor) as executor:
        record = ask(
            models,
            variants,
            asked,
            arguments.out,
            command_line.invocation("ask"),
            tuple(engines),
            options,
            executor,
            arguments.batch,
            part,
        )
    states = [facts.state for model in record.content.models.values() for facts in model.variants.values()]
    tell("\n" + _("{count} answers in {folder}", count=len(record.answers), folder=record.folder))
    if part:
        tell(
            _("Join it with the other parts: python -m itrex_chat.merge {folder} … --out FOLDER", folder=record.folder)
        )
    elif record.answers:
        tell(_("Compare them: python -m itrex_chat.compare {folder}", folder=record.folder))
    nothing_to_do = part is not None and not states  # more shards than questions
    return 0 if "failed" not in states and ("done" in states or nothing_to_do) else command_line.FAILED


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("ask", _("Ask the same questions to the FP32 and the INT4 variant of models."))
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="NAME|FOLDER|FILE",
        help=_("models to ask; default: all in the cache, or {default} if it is empty", default=recipes.EMBEDDED),
    )
    parser.add_argument(
        "--variants",
        metavar="LIST",
        help=_(
            "variants with commas between them, of {names}; default: the quantized one, and fp32 unless its originals "
            "would be a download of more than 1 GB",
            names=", ".join(PRECISIONS),
        ),
    )
    engine_options.add_options(parser)
    parser.add_argument(
        "--prompts",
        metavar="NAME|FILE",
        help=_(
            "a question set ({names}) or a YAML file; default: one that fits the model's languages",
            names=", ".join(question_sets.names()),
        ),
    )
    parser.add_argument(
        "--max-new-tokens", type=command_line.positive, metavar="N", help=_("at most this many tokens an answer")
    )
    parser.add_argument(
        "--batch",
        type=command_line.positive,
        metavar="N",
        help=_(
            "answer up to N questions at a time, at most 16, each as it is alone; their times are not compared with others; "
            "default: 1, and what memory has room for where weights are read from disk for each pass"
        ),
    )
    cluster.add_option(parser)
    shard.add_option(
        parser,
        _(
            "ask one part of so many, such as 2/8, of the models and questions; python -m itrex_chat.merge joins the parts"
        ),
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=_("where to keep the run; default: in the cache"))
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
