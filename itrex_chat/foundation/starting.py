"""What goes wrong before the program runs: a Python that is too old, one without the packages, an interrupt.

Older Pythons read this too, and it needs nothing but the standard library, hence both languages in one sentence.
"""

import os
import sys

OLDEST = (3, 11)
INTERRUPTED = 130
CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def watch():
    """Explain in a sentence what ends a command before it can do so itself."""
    if sys.version_info < OLDEST:
        sys.exit(
            f"itrex_chat: Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. {_remedy()} / 需要 Python 3.11 或更新的版本。"
        )
    open_streams()
    sys.excepthook = _explained


def open_streams():
    """What was closed when the program began (`>&-`) goes nowhere, lest the next file that is opened take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _discarding(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _discarding(number):
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def _explained(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):
        os._exit(INTERRUPTED)  # nothing has begun
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or package in ("", "itrex_chat"):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(
        f"itrex_chat: {sys.executable} does not have the package {package}. {_remedy()} / 此 Python 环境缺少 {package}。\n"
    )


def _remedy():
    environment = os.path.join(CHECKOUT, ".venv", "bin")
    if os.path.isfile(os.path.join(environment, "python")) and os.path.dirname(sys.executable) != environment:
        return f"Use the environment that is set up: . {environment}/activate"
    return "Set up an environment and use it: sh setup.sh && . .venv/bin/activate (or pip install . into this one)."
