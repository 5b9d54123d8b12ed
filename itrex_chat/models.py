"""Which models there are recipes for, and what each would be on this machine.

python -m itrex_chat.models
python -m itrex_chat.models --for fp32
"""

import argparse
import sys

from itrex_chat.foundation import command_line, machine
from itrex_chat.foundation.harmless import as_json, tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import NATIVE, PRECISIONS, Variant


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.disk import everything, offers
    from itrex_chat.foundation import bandwidth

    settings, home = command_line.settings(arguments), cache_home()
    known = [recipes.load(name, settings) for name in arguments.names or recipes.names()]
    rate, free = bandwidth.remembered(home), machine.available_memory()
    variant = Variant(arguments.precision, NATIVE) if arguments.precision else None
    found = offers.offers(known, everything(home), rate.rate, free, variant)
    if arguments.json:
        measured = {"bandwidth": rate.rate, "disturbed": rate.disturbed, "free_memory": free}
        values = {"format": 1, **measured, "models": [offer.as_dict() for offer in found]}
        print(as_json(values, indent=2), flush=True)
        return
    tell("\n".join(offers.lines(found, rate.rate, free)))
    if rate.disturbed:
        tell(_("Other programs took the cores while that was measured; it will be measured again."))


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "models", _("Show the recipes: what there is to download, memory, expected speed here, context, licence.")
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=_("these recipes only"))
    parser.add_argument(
        "--for",
        dest="precision",
        choices=PRECISIONS,
        help=_("memory and speed of this variant; default: the recipe's quantized one"),
    )
    parser.add_argument("--json", action="store_true", help=_("print JSON instead"))
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
