"""Quantize a model into the cache.

python -m itrex_chat.quantize --model chatglm3-6b
"""

import sys
import time

from itrex_chat import engines
from itrex_chat.artifacts.obtain import Obtained, obtain
from itrex_chat.foundation import command_line
from itrex_chat.foundation.language import _
from itrex_chat.quantization.statistics import Statistics
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe


def quantize(recipe: Recipe, refresh: bool = False) -> Obtained:
    """The artifact of a recipe, made if the cache has none. Raises ItrexChatError."""
    return obtain(recipe, refresh=refresh)


def quantize_with_itrex(recipe: Recipe, refresh: bool = False) -> str:
    """Have ITREX quantize a recipe's model, if that was not done before; what it did, for a person. Raises ItrexChatError."""
    from itrex_chat.engines.itrex.quantized import sentences
    from itrex_chat.engines.itrex.saved import obtain as obtain_saved

    started = time.perf_counter()
    if refresh:
        obtain(recipe, refresh=True)
    found = obtain_saved(recipe)
    lines = [*found.saved.log, *(f"{found.artifact.name}: {line}" for line in sentences(found.saved))]
    lines.append(
        _(
            "From the cache, in {seconds:.2f} s: {folder}",
            seconds=time.perf_counter() - started,
            folder=found.artifact.folder,
        )
        if found.cached
        else _(
            "Later starts of ITREX quantize nothing: its layers are filled from {folder}", folder=found.artifact.folder
        )
    )
    return "\n".join(lines)


def report(obtained: Obtained, seconds: float) -> str:
    """What a person wants to know about an artifact."""
    artifact = obtained.artifact
    statistics = Statistics(**artifact.manifest["statistics"])
    lines = [statistics.table(), f"{artifact.name}: {statistics.line()}"]
    if statistics.regrouped:
        lines.append(
            _(
                "{count} matrices have a smaller group than {wanted}, because their width demands it.",
                count=len(statistics.regrouped),
                wanted=artifact.manifest["content"]["group_size"],
            )
        )
    lines.append(
        _("From the cache, in {seconds:.2f} s: {folder}", seconds=seconds, folder=artifact.folder)
        if obtained.cached
        else _("Kept in {folder}", folder=artifact.folder)
    )
    return "\n".join(lines)


def command(arguments) -> None:
    recipe = recipes.load(arguments.model, command_line.settings(arguments))
    for engine in engines.engines_in(arguments.engine):
        if engine == engines.ITREX:
            print(quantize_with_itrex(recipe, arguments.refresh))
        else:
            _quantize_here(recipe, arguments.refresh)


def _quantize_here(recipe: Recipe, refresh: bool) -> None:
    started = time.perf_counter()
    obtained = quantize(recipe, refresh)
    print(report(obtained, time.perf_counter() - started))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("quantize", _("Quantize a model to INT4 and keep it in the cache."))
    parser.add_argument(
        "--model",
        default=recipes.EMBEDDED,
        metavar="NAME|FOLDER|FILE",
        help=_(
            "a recipe ({names}) or a recipe file, a folder, a .gguf file or a hub's owner/name; default: {default}",
            names=", ".join(recipes.names()),
            default=recipes.EMBEDDED,
        ),
    )
    parser.add_argument("--refresh", action="store_true", help=_("ask the hub whether the model has changed"))
    parser.add_argument(
        "--engine",
        default=engines.NATIVE,
        metavar="LIST",
        help=_(
            "who quantizes, with commas between them: {names}; default: {default}",
            names=", ".join(engines.ENGINES),
            default=engines.NATIVE,
        ),
    )
    command_line.add_settings(parser)
    return command_line.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
