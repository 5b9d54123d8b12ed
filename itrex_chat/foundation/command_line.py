"""What all commands share: options, and errors as one sentence with a non-zero exit."""

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import for_terminal
from itrex_chat.foundation.language import _
from itrex_chat.foundation.starting import INTERRUPTED

FAILED = 1


def run(command: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Run a command; its exit code. A traceback from here is a bug of this program."""
    try:
        return command(arguments) or 0
    except ItrexChatError as error:
        print(f"itrex_chat: {for_terminal(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nitrex_chat: " + _("interrupted; the same command goes on from here."), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be written at exit
        return FAILED


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? instead of failing
    return argparse.ArgumentParser(prog=f"python -m itrex_chat.{verb}", description=description)


def invocation(verb: str) -> str:
    """The command that is running, as it can be typed again; empty in a program that only imports this."""
    given = sys.argv[1:]
    name = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "") or ""
    if name == "itrex_chat.__main__" or Path(sys.argv[0]).name == "itrex-chat":
        return shlex.join(["itrex-chat", *given])
    return shlex.join(["python", "-m", f"itrex_chat.{verb}", *given]) if name == f"itrex_chat.{verb}" else ""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--set KEY VALUE`, any number of times."""
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help=_("override a key of the recipe, such as: quantization.group_size 64"),
    )


def settings(arguments: argparse.Namespace) -> list[str]:
    """All `--set` pairs in one flat list."""
    return [text for pair in arguments.settings for text in pair]


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(_("{text} is not a whole number from 1 on", text=text))
    return int(text)
