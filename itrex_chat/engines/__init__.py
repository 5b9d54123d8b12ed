"""Engines: the programs that can compute a model's variants.

`native` is this program. `itrex` is intel-extension-for-transformers itself,
in an environment of its own (`engines/itrex`). A variant of another engine
than `native` carries its engine's name in front: "itrex-int4".
"""

from dataclasses import dataclass

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _

NATIVE, ITREX = "native", "itrex"
ENGINES = (NATIVE, ITREX)


@dataclass(frozen=True)
class EngineOptions:
    """What only ITREX has: running a repository's own code, and conversation templates of its own.

    They are given on the command line or in a program, never by a recipe: a
    recipe may come from somebody else.
    """

    trust_remote_code: bool = False
    own_template: bool = False


def variant_of(engine: str, precision: str) -> str:
    """The name of a precision ("fp32", "int4", …) computed by an engine."""
    return precision if engine == NATIVE else f"{engine}-{precision}"


def engine_and_precision(variant: str) -> tuple[str, str]:
    """What `variant_of` was given."""
    engine, dash, precision = variant.partition("-")
    return (engine, precision) if dash else (NATIVE, variant)


def titled(variant: str) -> str:
    """A variant's name for people: "INT4", "INT4 (ITREX)"."""
    engine, precision = engine_and_precision(variant)
    return precision.upper() if engine == NATIVE else f"{precision.upper()} ({engine.upper()})"


def engines_in(text: str) -> list[str]:
    """The engines of `--engine`, with commas between them. Raises RecipeError."""
    names = list(dict.fromkeys(name for name in text.split(",") if name))
    for name in names or [text]:
        one_of("--engine", name, ENGINES)
    return names


def add_options(parser) -> None:
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


def chosen(arguments) -> tuple[list[str], EngineOptions]:
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
