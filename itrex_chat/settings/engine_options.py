"""Who computes: the engines that a user names, and what only one of them has."""

import argparse
from dataclasses import dataclass

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.settings.variant import ENGINES, ITREX, NATIVE


@dataclass(frozen=True)
class EngineOptions:
    """What only ITREX has: running a repository's own code, and conversation templates of its own.

    They are given on the command line or in a program, never by a recipe: a
    recipe may come from somebody else.
    """

    trust_remote_code: bool = False
    own_template: bool = False


def engines_in(text: str) -> list[str]:
    """The engines of `--engine`, with commas between them. Raises RecipeError."""
    names = list(dict.fromkeys(name for name in text.split(",") if name))
    for name in names or [text]:
        one_of("--engine", name, ENGINES)
    return names


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--engine` and what belongs to it, for a command's parser."""
    parser.add_argument(
        "--engine",
        default=NATIVE,
        metavar="LIST",
        help=_(
            "who computes, with commas between them: {names}; default: {default}",
            names=", ".join(ENGINES),
            default=NATIVE,
        ),
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help=_(
            "let ITREX run Python code that comes with the model, with all that you may do on this machine; only for "
            "--engine itrex and models that it cannot load otherwise"
        ),
    )
    parser.add_argument(
        "--itrex-template",
        action="store_true",
        help=_("put questions to ITREX in its own conversation template instead of the model's"),
    )


def chosen(arguments: argparse.Namespace) -> tuple[list[str], EngineOptions]:
    """The engines and options that a user gave. Raises RecipeError."""
    names = engines_in(arguments.engine)
    for flag, given in (
        ("--trust-remote-code", arguments.trust_remote_code),
        ("--itrex-template", arguments.itrex_template),
    ):
        if given and ITREX not in names:
            raise RecipeError(
                _("{flag} is for --engine itrex only; the native engine never runs a model's own code.", flag=flag)
            )
    return names, EngineOptions(arguments.trust_remote_code, arguments.itrex_template)
