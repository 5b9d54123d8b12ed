"""Options that several verbs have, each with one name and one meaning."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.language import LANGUAGES, _
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.kv_cache import FORMATS


def add_run(parser: ArgumentParser) -> None:
    """RUN: a run by its place on the command line."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help=_("the folder of a run; default: the newest"))


def add_texts(parser: ArgumentParser, told: str) -> None:
    """--text and --tokens: what to measure on. `told` is the help for the texts."""
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE", help=told)
    parser.add_argument(
        "--tokens", type=command_line.positive, metavar="N", help=_("use at most this many tokens of each text")
    )


def add_formats(parser: ArgumentParser, told: str) -> None:
    """--kv-cache: formats of keys and values to measure."""
    parser.add_argument("--kv-cache", metavar="LIST", default="", help=told)


def formats(arguments: Namespace) -> list[str]:
    """Those of `--kv-cache`. Raises RecipeError for one that there is not."""
    found = list(dict.fromkeys(name for name in arguments.kv_cache.split(",") if name))
    for name in found:
        one_of("--kv-cache", name, FORMATS)
    return found


def add_out(parser: ArgumentParser, told: str) -> None:
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=told)


def add_language(parser: ArgumentParser, told: str) -> None:
    parser.add_argument("--lang", choices=LANGUAGES, help=told)


def add_endpoint(parser: ArgumentParser, variable: str, key: str) -> None:
    """--model and --endpoint: an online model. The variables of the environment have the address and the key."""
    parser.add_argument("--model", required=True, metavar="NAME", help=_("the model's name at the endpoint"))
    parser.add_argument(
        "--endpoint",
        metavar="ADDRESS",
        help=_(
            "an OpenAI-compatible address up to /v1; default: {variable}. The key is taken from {key}",
            variable=variable,
            key=key,
        ),
    )


def add_model(parser: ArgumentParser) -> None:
    """--model: one model, the embedded one by default."""
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


def add_measuring(parser: ArgumentParser) -> None:
    """What `sweep` and `attribute` share: a model, what to measure it on, against what, and where to write."""
    add_model(parser)
    add_texts(parser, _("texts in UTF-8 to measure on"))
    parser.add_argument("--run", type=Path, metavar="RUN", help=_("measure on the baseline's answers in this run, too"))
    parser.add_argument(
        "--baseline", default="fp32", metavar="VARIANT", help=_("what to compare with: fp32 (the default), or bf16")
    )
    add_out(parser, _("where to write; default: in the cache"))
    add_language(parser, _("the language of the report; default: the locale's"))
    command_line.add_settings(parser)
