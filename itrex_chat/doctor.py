"""What is installed and what works here, and what to do about the rest.

python -m itrex_chat.doctor
python -m itrex_chat.doctor --engine itrex --install
"""

import argparse
import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from itrex_chat import __version__
from itrex_chat.engines import engines
from itrex_chat.engines.finding import BAD, GOOD, NOTE, Finding
from itrex_chat.foundation import command_line, machine
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.settings.variant import ENGINES, NATIVE

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LITTLE_MEMORY, LITTLE_DISK = 8 << 30, 10 << 30  # bytes: less is named


def examine(engine: str = NATIVE) -> list[Finding]:
    """Everything there is to say about this machine; the `engine` is tried out, others are only looked up."""
    found: list[Finding] = []
    looked_up = [lambda each=each: each.examine(tried=each.name == engine) for each in engines()]
    for section in (_program, _processor, *looked_up, _memory, _cache):
        try:
            found += section()
        except ItrexChatError as error:
            found.append(Finding(BAD, str(error)))
        except Exception as error:  # whatever is broken here, the rest is told, too
            found.append(Finding(BAD, f"{type(error).__name__}: {error}"))
    return found


def _program() -> list[Finding]:
    found = [
        Finding(GOOD, _("itrex_chat {version}, Python {python}", version=__version__, python=sys.version.split()[0]))
    ]
    good: list[tuple[Requirement, str]] = []
    wrong: list[tuple[Requirement, str]] = []
    for wanted in _required():
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            installed = ""
        fits = wanted.specifier.contains(installed, prereleases=True) if installed else False
        (good if fits else wrong).append((wanted, installed.partition("+")[0]))
    found.append(
        Finding(
            GOOD,
            _(
                "packages: {count} that fit ({names})",
                count=len(good),
                names=", ".join(
                    f"{wanted.name} {installed}"
                    for wanted, installed in good
                    if wanted.name in ("torch", "transformers", "neural-compressor-pt")
                ),
            ),
        )
    )
    return found + [
        Finding(
            BAD,
            _("{name} is missing", name=wanted.name)
            if not installed
            else _(
                "{name} is {installed}, outside of {range}",
                name=wanted.name,
                installed=installed,
                range=wanted.specifier,
            ),
            shlex.join([sys.executable, "-m", "pip", "install", f"{wanted.name}{wanted.specifier}"]),
        )
        for wanted, installed in wrong
    ]


def _required() -> list["Requirement"]:
    """What the installed package requires here, without extras."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("itrex_chat") or ()]
    except PackageNotFoundError:
        return []
    return [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def _processor() -> list[Finding]:
    facts = machine.description()
    instructions = facts["instructions"]
    found = [
        Finding(
            GOOD,
            _(
                "{name}, {cores} cores, {threads} threads in use; instructions: {instructions}",
                name=facts["cpu"],
                cores=facts["cores"],
                threads=machine.threads(),
                instructions=", ".join(instructions) or _("none that matter"),
            ),
        )
    ]
    if "avx2" not in instructions:
        found.append(Finding(NOTE, _("without AVX2 everything works, but slowly")))
    return found


def _memory() -> list[Finding]:
    import psutil

    total, free = psutil.virtual_memory().total, machine.available_memory()
    text = _("memory: {free} of {total} free", free=readable(free), total=readable(total))
    if free < LITTLE_MEMORY:
        return [Finding(NOTE, text, _("end other programs before a model of 6 billion weights is loaded in FP32"))]
    return [Finding(GOOD, text)]


def _cache() -> list[Finding]:
    home = cache_home()
    existing = next(folder for folder in (home, *home.parents) if os.path.exists(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return [
            Finding(
                BAD,
                _("cache: {folder} cannot be written", folder=home),
                _("set ITREX_CHAT_CACHE to a folder that can be"),
            )
        ]
    free = shutil.disk_usage(existing).free
    count = sum(1 for path in (home / "artifacts").glob("*/manifest.json"))
    text = _(
        "cache: {folder}, {count} quantized models, {free} free on its disk",
        folder=home,
        count=count,
        free=readable(free),
    )
    return [
        Finding(NOTE, text, _("free some, or set ITREX_CHAT_CACHE to a folder on another disk"))
        if free < LITTLE_DISK
        else Finding(GOOD, text)
    ]


def report(findings: list[Finding]) -> str:
    """A line for each finding, and what to do below those that need something."""
    lines = []
    for finding in findings:
        lines.append(f"[{finding.state}] {finding.text}")
        if finding.remedy:
            lines.append(f"     → {finding.remedy}")
    return "\n".join(lines)


def command(arguments: argparse.Namespace) -> int:
    one_of("--engine", arguments.engine, ENGINES)
    if arguments.install or arguments.python:
        [chosen] = (engine for engine in engines() if engine.name == arguments.engine)
        tell(chosen.install(arguments.python))
        return 0
    findings = examine(arguments.engine)
    tell(report(findings))
    return command_line.FAILED if any(finding.state == BAD for finding in findings) else 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "doctor", _("Show what is installed, what works on this machine, and what to do about the rest.")
    )
    parser.add_argument(
        "--engine",
        default=NATIVE,
        metavar="NAME",
        help=_("try this engine out: {names}; default: {default}", names=", ".join(ENGINES), default=NATIVE),
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=_("make the environment of --engine itrex, or repair it (up to 7 GB; later runs are immediate)"),
    )
    parser.add_argument(
        "--python", metavar="PATH", help=_("use ITREX in an environment that you have, by its interpreter")
    )
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
