"""Steps of making an environment, each remembered when it is finished."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

from itrex_chat.foundation import death, files, offline, progress
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# pip ends with the process that called it: the end of standard input says that it is gone.
CHILD = (
    "import os, runpy, sys, threading\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()\n"
    "sys.argv[0] = 'pip'\n"
    "runpy.run_module('pip', run_name='__main__')\n"
)


class Steps:
    """The steps for an environment in `folder`, made for one `digest`; `log` has what pip said."""

    def __init__(self, folder: Path, digest: str):
        self.folder, self._digest = folder, digest
        self.log = folder.with_name(f"{folder.name}.log")

    def done(self, name: str) -> bool:
        return name in self._record()

    def environment(self, interpreter: str) -> None:
        """An empty environment with pip in it."""
        run = subprocess.run(
            [interpreter, "-m", "venv", self.folder], capture_output=True, encoding="utf-8", errors="replace"
        )
        if run.returncode or not (self.folder / "bin" / "pip").exists():
            raise EngineError(
                _(
                    "{python} cannot make an environment with pip in it ({reason}). Debian, Ubuntu: apt install "
                    "python3-venv python3-pip",
                    python=interpreter,
                    reason=_last(run.stderr) or _last(run.stdout) or death.how(run.returncode),
                )
            )
        self._finished("environment")

    def install(self, name: str, arguments: list[str], count: int | None = None) -> None:
        """`pip install` with a bar over the packages it collects. Raises EngineError with pip's own reason."""
        if offline.is_asked_for():
            raise EngineError(
                _(
                    "ITREX's packages are not on this machine, and the network is not to be used. Unset {variable} to "
                    "install them.",
                    variable=offline.VARIABLE,
                )
            )
        with self.log.open("a", encoding="utf-8") as log:
            pip = subprocess.Popen(
                [
                    self.folder / "bin" / "python",
                    "-c",
                    CHILD,
                    "install",
                    "--disable-pip-version-check",
                    "--no-input",
                    *arguments,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=_variables(),
            )
            reason = last = ""
            with progress.bar(_("installing {what}", what=name), count, "packages") as bar:
                for line in pip.stdout or ():
                    log.write(line)
                    log.flush()
                    last = _last(line) or last
                    if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied")):
                        bar.update(1)
                    elif line.startswith("ERROR"):
                        reason = reason or _last(line.removeprefix("ERROR:"))
        if pip.wait():
            if reason == "Exception:":  # one that pip did not foresee; its traceback ends with what it is
                reason = last
            raise EngineError(
                _(
                    "pip could not install ITREX's packages ({reason}; the log is {log}). Check the network and the "
                    "disk and run the same command again: it goes on from here.",
                    reason=reason or death.how(pip.returncode),
                    log=self.log,
                )
            )
        self._finished(name)

    def _record(self) -> dict:
        try:
            recorded = json.loads((self.folder / "steps.json").read_text("utf-8"))
            return recorded["done"] if recorded["digest"] == self._digest else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _finished(self, name: str) -> None:
        files.write_json(self.folder / "steps.json", {"digest": self._digest, "done": {**self._record(), name: True}})


def _last(text: str) -> str:
    """The last line of what a program wrote that has something in it, as part of a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:300] if lines else ""


def torch_index() -> list[str]:
    """pip's options for the index that has builds of torch for CPUs, where it can be reached.

    TORCH_INDEX names another one, or none if it is empty, as in `setup.sh`.
    """
    if (chosen := os.environ.get("TORCH_INDEX")) is not None:
        return ["--index-url", chosen] if chosen else []
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=4).close()
    except (OSError, ValueError):
        return []
    return ["--index-url", CPU_INDEX]


def _variables() -> dict[str, str]:
    """Without what would make pip work on another environment."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
