"""A conversation in the terminal: `python -m itrex_chat.chat`.

python -m itrex_chat.chat --model chatglm3-6b --variant int4
echo "1 + 1 = ?" | python -m itrex_chat.chat
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.starting import INTERRUPTED
from itrex_chat.settings import options
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import ORDER, PRECISIONS, Variant, titled

if TYPE_CHECKING:
    from itrex_chat.conversation.voices import Voices

LARGEST_QUESTION = 8 << 20  # characters from a pipe


def talk(voices: "Voices", system: str = "") -> bool:
    """Talk until the user ends it, or answer once what comes through a pipe; False where that was interrupted.

    Raises ItrexChatError.
    """
    from itrex_chat.conversation.screen import Screen, has_colours
    from itrex_chat.conversation.talking import Talk
    from itrex_chat.conversation.turns import Conversation

    conversation = sys.stdin.isatty()
    screen = Screen(conversation)
    going = Talk(Conversation(system), voices, screen)
    if not conversation:
        return going.ask(_question())
    from itrex_chat.conversation.prompt import Prompt

    voices.choose(voices.names)
    screen.fact(
        _(
            "{model} · {variants} · /help shows what can be typed, Ctrl-D ends",
            model=voices.recipe.name,
            variants=", ".join(map(titled, voices.names)),
        )
    )
    going.go_on(Prompt(_history(), ORDER, has_colours(sys.stdout)).read)
    return True


def _history() -> Path:
    return cache_home() / "chat" / "history.jsonl"


def _question() -> str:
    """All of standard input. Raises GenerationError where there is nothing, or no text, or too much."""
    try:
        text = sys.stdin.read(LARGEST_QUESTION + 1)
    except UnicodeDecodeError:
        raise GenerationError(_("Standard input is not a text in this locale's encoding.")) from None
    if len(text) > LARGEST_QUESTION:
        raise GenerationError(_("Standard input is too long for a question."))
    if not text.strip():
        raise GenerationError(_("Standard input is empty; there is nothing to answer."))
    return text.strip()


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.conversation.voices import Voices, names_in

    settings = command_line.settings(arguments)
    if arguments.max_new_tokens:
        settings += ["generation.max_new_tokens", str(arguments.max_new_tokens)]
    recipe = recipes.load(arguments.model, settings)
    if given := arguments.variants or arguments.variant:
        names = names_in(given, "--variants" if arguments.variants else "--variant")
    else:
        names = (str(Variant.of(recipe.quantization)),)
    with Voices(recipe, names) as voices:
        return 0 if talk(voices, arguments.system) else INTERRUPTED


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "chat", _("Talk to a model in the terminal; what comes through a pipe is answered once.")
    )
    options.add_model(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--variant",
        metavar="NAME",
        help=_("who answers, of {names}; default: what the recipe quantizes to", names=", ".join(PRECISIONS)),
    )
    chosen.add_argument(
        "--variants",
        metavar="LIST",
        help=_("several with commas between them: each answers, one below the other, and where they part is marked"),
    )
    parser.add_argument(
        "--system", default="", metavar="TEXT", help=_("what the model is told before the conversation")
    )
    parser.add_argument(
        "--max-new-tokens", type=command_line.positive, metavar="N", help=_("at most this many tokens an answer")
    )
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
