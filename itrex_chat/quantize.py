"""Quantize a model into the cache.

    python -m itrex_chat.quantize --model chatglm3-6b
"""
import sys
import time

from itrex_chat import command_line, recipe as recipes
from itrex_chat.artifacts.obtain import Obtained, obtain
from itrex_chat.language import _
from itrex_chat.quantization.statistics import Statistics
from itrex_chat.recipe import Recipe


def quantize(recipe: Recipe, refresh: bool = False) -> Obtained:
    """The artifact of a recipe, made if the cache has none. Raises ItrexChatError."""
    return obtain(recipe, refresh=refresh)


def report(obtained: Obtained, seconds: float) -> str:
    """What a person wants to know about an artifact."""
    artifact = obtained.artifact
    statistics = Statistics(**artifact.manifest["statistics"])
    lines = [statistics.table(), f"{artifact.name}: {statistics.line()}"]
    if statistics.regrouped:
        lines.append(_("{count} matrices have a smaller group than {wanted}, because their width demands it.",
                       count=len(statistics.regrouped), wanted=artifact.manifest["content"]["group_size"]))
    lines.append(_("From the cache, in {seconds:.2f} s: {folder}", seconds=seconds, folder=artifact.folder)
                 if obtained.cached else _("Kept in {folder}", folder=artifact.folder))
    return "\n".join(lines)


def command(arguments) -> None:
    started = time.perf_counter()
    obtained = quantize(recipes.load(arguments.model, command_line.settings(arguments)), arguments.refresh)
    print(report(obtained, time.perf_counter() - started))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("quantize", _("Quantize a model to INT4 and keep it in the cache."))
    parser.add_argument("--model", default=recipes.EMBEDDED, metavar="NAME|FOLDER|FILE",
                        help=_("a recipe ({names}) or a recipe file, a folder, a .gguf file or a hub's owner/name; default: {default}",
                               names=", ".join(recipes.names()), default=recipes.EMBEDDED))
    parser.add_argument("--refresh", action="store_true", help=_("ask the hub whether the model has changed"))
    command_line.add_settings(parser)
    return command_line.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
