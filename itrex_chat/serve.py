"""Serve models to every program that speaks OpenAI's API.

python -m itrex_chat.serve --model chatglm3-6b --variants int4,fp32
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line, files
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.variant import PRECISIONS

if TYPE_CHECKING:
    from itrex_chat.server.access import Access

SHORTEST_KEY, LARGEST_FILE = 8, 64 << 10


def command(arguments: argparse.Namespace) -> None:
    from itrex_chat.server.access import Access, is_loopback

    variants = list(dict.fromkeys(name for name in (arguments.variants or "").split(",") if name))
    for name in variants:
        one_of("--variants", name, PRECISIONS)
    keys = _keys(arguments)
    if not keys and not arguments.no_auth and not is_loopback(arguments.host):
        raise RunError(
            _(
                "{host} can be reached by others, so a key is needed: --api-key-file FILE; or say --no-auth if everybody "
                "may ask.",
                host=arguments.host,
            )
        )
    _serve(arguments, variants, Access(keys, [arguments.host, *arguments.allow_host]))


def _serve(arguments: argparse.Namespace, variants: list[str], access: "Access") -> None:
    from itrex_chat.artifacts.cached import cached_models
    from itrex_chat.server import running
    from itrex_chat.server.collected import Collected
    from itrex_chat.server.journal import note_failure
    from itrex_chat.server.limits import Limits
    from itrex_chat.server.metrics import Metrics
    from itrex_chat.server.models import Models
    from itrex_chat.server.offered import offered
    from itrex_chat.server.service import Service
    from itrex_chat.server.shares import Shares

    with running.listening(arguments.host, arguments.port) as at:
        settings = command_line.settings(arguments)
        asked = [recipes.load(name, settings) for name in arguments.model] or cached_models(settings)
        models, trusted = offered(asked, variants)
        limits = Limits(tokens=arguments.max_tokens)
        given = {
            "body": arguments.max_body,
            "seconds": arguments.timeout,
            "connections": arguments.connections,
            "waiting": arguments.queue,
            "grace": arguments.grace,
        }
        limits = dataclasses.replace(limits, **{name: value for name, value in given.items() if value is not None})
        metrics = Metrics()
        served = Models(
            models,
            trusted,
            arguments.cache_memory and int(arguments.cache_memory * 1e9),
            limits.waiting,
            arguments.unload_after,
            metrics.passed,
            lambda name, error: note_failure("model", error, model=name),
        )
        metrics.watch(models)
        host, port = at.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        tell(_("Listening on {address} with the models {names}.", address=f"{address}v1", names=", ".join(served.all)))
        tell(_("Talk to them in the browser: {address}", address=address))
        running.serve(
            Service(served, limits, metrics, collected=Collected(arguments.runs), shares=Shares(arguments.runs)),
            access,
            at,
        )


def _keys(arguments: argparse.Namespace) -> list[str]:
    """The keys of the arguments. Raises RunError for one that is none."""
    found = [arguments.api_key] if arguments.api_key is not None else []
    if arguments.api_key_file:
        found += files.bytes_of(arguments.api_key_file, RunError, LARGEST_FILE).decode("utf-8", "replace").split("\n")
        found = [key.strip() for key in found if key.strip()]
        if not found:
            raise RunError(_("{path} has no key in it.", path=arguments.api_key_file))
    for key in found:
        if len(key) < SHORTEST_KEY or not all("!" <= character <= "~" for character in key):
            raise RunError(
                _("A key has {count} letters, digits and signs of ASCII at least, and no spaces.", count=SHORTEST_KEY)
            )
    return found


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            _("{text} is not a port, a number from 0 (any that is free) to 65535", text=text)
        )
    return int(text)


def main(argv: list[str] | None = None) -> int:
    positive = command_line.positive
    parser = command_line.parser("serve", _("Serve models to every program that speaks OpenAI's API."))
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="NAME|FOLDER|FILE",
        help=_("models to serve; default: all in the cache, or {default} if it is empty", default=recipes.EMBEDDED),
    )
    parser.add_argument(
        "--variants",
        metavar="LIST",
        help=_(
            "variants with commas between them, of {names}; default: the quantized one, and fp32 where its originals are on "
            "this machine",
            names=", ".join(PRECISIONS),
        ),
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help=_("address to listen on; default: 127.0.0.1, this machine alone")
    )
    parser.add_argument("--port", type=_port, default=8000, help=_("port to listen on; default: 8000"))
    parser.add_argument(
        "--api-key", metavar="KEY", help=_("the key that clients send; others see it in the list of processes")
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help=_("a file with keys, one a line"))
    parser.add_argument("--no-auth", action="store_true", help=_("let everybody ask who reaches the address"))
    parser.add_argument(
        "--allow-host", nargs="+", default=[], metavar="NAME", help=_("names by which clients call this machine")
    )
    parser.add_argument(
        "--timeout", type=positive, metavar="SECONDS", help=_("end an answer after so long; default: 600")
    )
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help=_("at most this many tokens an answer; default: what the model takes"),
    )
    parser.add_argument(
        "--max-body", type=positive, metavar="BYTES", help=_("largest body of a request; default: 4000000")
    )
    parser.add_argument("--connections", type=positive, metavar="N", help=_("most connections at a time; default: 256"))
    parser.add_argument(
        "--queue", type=positive, metavar="N", help=_("most answers that wait for a place of a model; default: 256")
    )
    parser.add_argument(
        "--cache-memory",
        type=float,
        metavar="GB",
        help=_("memory for keys and values of each model; default: a share of half of what is left"),
    )
    parser.add_argument(
        "--unload-after",
        type=positive,
        default=1800,
        metavar="SECONDS",
        help=_("let go of a model that nobody has asked for so long; default: 1800"),
    )
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="FOLDER",
        help=_("where the page has votes and conversations kept as runs; default: where all runs are, in the cache"),
    )
    parser.add_argument(
        "--grace",
        type=positive,
        metavar="SECONDS",
        help=_("how long answers may go on when the server is to end; default: 30"),
    )
    command_line.add_settings(parser)
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
