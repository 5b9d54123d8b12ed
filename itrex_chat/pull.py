"""Models ahead of time: downloaded, and quantized where that is needed, so that they answer without the network.

python -m itrex_chat.pull chatglm3-6b
python -m itrex_chat.pull chatglm3-6b qwen-7b-chat --for fp32,int4
"""

import argparse
import sys
from collections.abc import Sequence

from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


def pull(recipe: Recipe, variants: Sequence[Variant], refresh: bool = False) -> str:
    """Have on this machine what variants of a recipe's model need; what is there then, for people.

    `refresh` asks the hub whether the model has changed. Raises ItrexChatError; what came before that stays.
    """
    from itrex_chat import sources
    from itrex_chat.artifacts import obtain
    from itrex_chat.engines import engine_of

    if refresh and not any(variant.bits for variant in variants):
        sources.resolve(recipe, refresh=True)
    trusted: dict[str, str] = {}
    parts = []
    for variant in variants:
        meant = variant.applied_to(recipe)
        if refresh and variant.bits:
            obtain(meant, refresh=True)
        found = engine_of(variant).on_disk(recipe, variant, EngineOptions(), trusted)
        size = found.artifact.nbytes() if found.artifact else found.checkpoint.source.size() if found.checkpoint else 0
        parts.append(f"{variant.title} {readable(size)}")
    return _("{model} is here: {variants}", model=recipe.name, variants=", ".join(parts))


def command(arguments: argparse.Namespace) -> int:
    settings = command_line.settings(arguments)
    failed = 0
    for name in dict.fromkeys(arguments.names):
        try:
            recipe = recipes.load(name, settings)
            wanted = [each for each in (arguments.variants or "").split(",") if each]
            variants = [Variant.parse(each) for each in dict.fromkeys(wanted)] or [Variant.of(recipe.quantization)]
            tell(pull(recipe, variants, arguments.refresh))
        except ItrexChatError as error:
            failed += 1
            tell(f"itrex_chat: {name}: {error}", file=sys.stderr)
    return command_line.FAILED if failed else 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "pull", _("Download models ahead of time, and quantize them where their variants need that.")
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help=_("recipes, recipe files or a hub's owner/name, also of an artifact")
    )
    parser.add_argument(
        "--for",
        dest="variants",
        metavar="LIST",
        help=_("what they shall answer as, such as int4 or fp32,int4; default: the recipe's quantized variant"),
    )
    parser.add_argument("--refresh", action="store_true", help=_("ask the hub whether the model has changed"))
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
