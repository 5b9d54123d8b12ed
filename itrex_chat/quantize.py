"""Quantize a model into the cache.

python -m itrex_chat.quantize --model chatglm3-6b
python -m itrex_chat.quantize --model chatglm3-6b --set quantization.algorithm gptq
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from itrex_chat import cluster
from itrex_chat.engines import engine_of
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings import options
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import engines_in
from itrex_chat.settings.quantization import CALIBRATED
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import ENGINES, NATIVE, Variant

if TYPE_CHECKING:
    from itrex_chat.cluster.executor import RayExecutor


def quantize(recipe: Recipe, engine: str = NATIVE, refresh: bool = False, executor: "RayExecutor | None" = None) -> str:
    """Have an engine quantize a recipe's model into the cache, if that was not done before; what came of it, for people.

    `refresh` asks the hub whether the model has changed. With an `executor`, a machine of the cluster does it, and what it has
    made is brought here. Raises ItrexChatError.
    """
    variant = Variant.of(recipe.quantization, engine)
    if executor and not executor.quantize(recipe, str(variant)):
        return _("{variant} is in the cache of the machine of the cluster that made it.", variant=variant.title)
    return engine_of(variant).quantize(recipe, refresh)


def yaml_list(names: list[str]) -> str:
    """A list of texts as `--set` reads it."""
    return json.dumps(names, ensure_ascii=False)


def command(arguments: argparse.Namespace) -> None:
    calibration = ["quantization.calibration", yaml_list(arguments.calibration)] if arguments.calibration else []
    recipe = recipes.load(arguments.model, [*command_line.settings(arguments), *calibration])
    if arguments.executor and arguments.refresh:
        raise RecipeError(_("--refresh is for this machine; leave it or --executor out."))
    with cluster.opened(arguments.executor) as executor:
        for engine in engines_in(arguments.engine):
            tell(quantize(recipe, engine, arguments.refresh, executor))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("quantize", _("Quantize a model to INT4 and keep it in the cache."))
    options.add_model(parser)
    parser.add_argument("--refresh", action="store_true", help=_("ask the hub whether the model has changed"))
    parser.add_argument(
        "--engine",
        default=NATIVE,
        metavar="LIST",
        help=_(
            "who quantizes, with commas between them: {names}; default: {default}",
            names=", ".join(ENGINES),
            default=NATIVE,
        ),
    )
    cluster.add_option(parser)
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="FILE",
        help=_(
            "texts in UTF-8, or answers:RUN for the FP32 answers of a run, that the algorithms {names} read instead of the "
            "program's own (--set quantization.algorithm gptq)",
            names=", ".join(CALIBRATED),
        ),
    )
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
