"""What goes wrong before the program runs: a Python that is too old, one without the packages, an interrupt.

Older Pythons read this too, and it needs nothing but the standard library, hence both languages in one sentence.
"""
import os
import sys

OLDEST = (3, 11)
INTERRUPTED = 130
CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def watch():
    """Explain in a sentence what ends a command before it can do so itself."""
    if sys.version_info < OLDEST:
        sys.exit("itrex_chat: Python 3.11 or newer is needed; {0} is {1}. {2} / 需要 Python 3.11 或更新的版本。".format(
            sys.executable, sys.version.split()[0], _remedy()))
    sys.excepthook = _explained


def _explained(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):
        os._exit(INTERRUPTED)  # nothing has begun
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or package in ("", "itrex_chat"):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("itrex_chat: {0} does not have the package {1}. {2} / 此 Python 环境缺少 {1}。\n".format(
        sys.executable, package, _remedy()))


def _remedy():
    environment = os.path.join(CHECKOUT, ".venv", "bin")
    if os.path.isfile(os.path.join(environment, "python")) and os.path.dirname(sys.executable) != environment:
        return "Use the environment that is set up: . {0}/activate".format(environment)
    return "Set up an environment and use it: sh setup.sh && . .venv/bin/activate (or pip install . into this one)."
