"""What all commands share: options, and errors as one sentence with a non-zero exit."""

import argparse
import contextlib
import io
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from itrex_chat.foundation import files, offline, starting
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import encodable, for_terminal, tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.starting import INTERRUPTED

FAILED = 1
BUG = 70  # EX_SOFTWARE of sysexits.h


def run(
    command: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> int:
    """Run a command with what a user typed; its exit code. Raises SystemExit for what the parser does not know, and help."""
    return framed(lambda: command(parser.parse_args(argv)))


def framed(work: Callable[[], int | None]) -> int:
    """Do something that a user started; its exit code. Whatever goes wrong is a sentence; where a bug arose is kept in a file."""
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except ItrexChatError as error:
        return _told(str(error))
    except KeyboardInterrupt:
        return _told(_("interrupted; the same command goes on from here."), INTERRUPTED, before="\n")
    except BrokenPipeError:
        _write_no_more()
        return FAILED
    except OSError as error:
        return _told(_of_the_system(error))
    except Exception as error:
        return _told(
            _(
                "This program has made a mistake ({kind}); {log} says where. Please report it with that file.",
                kind=type(error).__name__,
                log=_logged(),
            ),
            BUG,
        )


def _told(sentence: str, code: int = FAILED, before: str = "") -> int:
    """Say what went wrong where that is possible; the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        _write_no_more()
    with contextlib.suppress(OSError):
        print(f"{before}itrex_chat: {for_terminal(sentence)}", file=sys.stderr, flush=True)
    return code


def _write_no_more() -> None:
    """What is left for standard output goes nowhere, also at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a program that imports this may have no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_the_system(error: OSError) -> str:
    """A sentence for an error of the system that nobody foresaw where it arose."""
    if error.filename is not None:
        return _("{path} cannot be used: {reason}.", path=os.fsdecode(error.filename), reason=files.why(error))
    try:
        os.getcwd()
    except OSError:
        return _("The working folder does not exist any more; change to another one.")
    try:
        print(flush=True)
    except OSError:
        return _("Standard output cannot be written: {reason}.", reason=files.why(error))
    return _("The system refuses something: {reason}.", reason=files.why(error))


def _logged() -> str:
    """The file with the traceback of the exception that is being handled: in the cache, else in the temporary folder."""
    name = f"error-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    text = f"{shlex.join(sys.argv)}\n{traceback.format_exc()}"
    for folder in (lambda: cache_home() / "logs", lambda: Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, ValueError):
            folder().mkdir(parents=True, exist_ok=True)
            files.write_text(folder() / name, text)
            return str(folder() / name)
    return os.devnull


def set_streams() -> None:
    """Standard streams that can be written: closed ones go nowhere, and a terminal without UTF-8 shows ? instead of failing."""
    starting.open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        tell(self.format_help(), end="", file=file)  # argparse would ignore what stands against it


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    set_streams()
    return _Parser(prog=f"python -m itrex_chat.{verb}", description=description)


def invocation(verb: str) -> str:
    """The command that is running, as it can be typed again; empty in a program that only imports this."""
    given = [encodable(argument) for argument in sys.argv[1:]]
    name = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "") or ""
    if name == "itrex_chat.__main__" or Path(sys.argv[0]).name == "itrex-chat":
        return shlex.join(["itrex-chat", *given])
    return shlex.join(["python", "-m", f"itrex_chat.{verb}", *given]) if name == f"itrex_chat.{verb}" else ""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--set KEY VALUE`, any number of times, and `--offline`: what all commands that take models have."""
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help=_("override a key of the recipe, such as: quantization.group_size 64"),
    )
    parser.add_argument(
        "--offline", action=offline.Offline, help=_("ask nothing of the network (as ITREX_CHAT_OFFLINE=1)")
    )


def settings(arguments: argparse.Namespace) -> list[str]:
    """All `--set` pairs in one flat list."""
    return [text for pair in arguments.settings for text in pair]


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(_("{text} is not a whole number from 1 on", text=text))
    return int(text)
