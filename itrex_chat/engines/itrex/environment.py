"""ITREX's own environment: made by `doctor --engine itrex --install`, or one that the user has.

ITREX's kernels link against torch 2.3 and its libraries are of 2024, so it
never shares an environment with this program. Where it lives:

    engines/itrex/             the virtual environment that was made here
    engines/itrex.json         what was verified of the environment in use, and its interpreter

A step that was finished is not repeated after an interruption.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat.engines.itrex import pip
from itrex_chat.foundation import files, in_use, space
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home, engines_home

HERE = Path(__file__).resolve().parent
LOCK = HERE / "itrex.lock"
VERSION, TORCH = "1.4.2", "torch==2.3.0"
PYTHON = (3, 11)  # what the locked versions were checked with
DISK = 7 << 30  # bytes: with CUDA's libraries, which the common build of torch brings
PROBE_SECONDS = 300
INSTALL = "python -m itrex_chat.doctor --engine itrex --install"


@dataclass(frozen=True)
class Environment:
    """An environment in which ITREX was seen to work: its interpreter, whether the user brought it, and what is in it."""

    python: str
    adopted: bool
    lock: str
    facts: dict

    @property
    def version(self) -> str:
        return self.facts["versions"]["intel-extension-for-transformers"]


def find() -> Environment:
    """The environment that was verified last. Raises EngineError saying how to get one."""
    found = _recorded()
    if found is None:
        raise EngineError(_("ITREX is not installed. Install it: {command}", command=INSTALL))
    if not os.access(found.python, os.X_OK):
        raise EngineError(
            _(
                "ITREX's environment is gone: {python} does not exist. Install it again: {command}",
                python=found.python,
                command=INSTALL,
            )
        )
    if not found.adopted:
        in_use.hold(folder())
    return found


def install(python: str | None = None) -> Environment:
    """An environment that works, made, repaired or found whole; `python` adopts the user's own. Raises EngineError."""
    home = engines_home()
    with files.disk_errors(EngineError, _("Installing ITREX in {folder}", folder=home)):
        home.mkdir(parents=True, exist_ok=True)
        with _only_one(home / "itrex.lock"):
            if python:
                return _verified(Path(shutil.which(python) or python).absolute(), adopted=True)
            found = _recorded()
            if (
                found
                and found.python == str(folder() / "bin" / "python")
                and os.access(found.python, os.X_OK)
                and found.lock == _lock_digest()
                and not missing_files(folder())
            ):
                return found
            _make(folder())
            return _verified(folder() / "bin" / "python", adopted=False)


def folder() -> Path:
    """Where the environment is that this program makes."""
    return engines_home() / "itrex"


def remove() -> None:
    """Remove the environment that was made here. Raises EngineError where another process uses it."""
    with files.disk_errors(EngineError, _("Removing {folder}", folder=folder())):
        try:
            with FileLock(engines_home() / "itrex.lock", timeout=0):
                in_use.discard_unused(folder(), EngineError)
                found = _recorded()
                if found and not found.adopted:
                    suspect()
        except Timeout:
            raise EngineError(
                _("Another process is using {folder}; try again when it is done.", folder=folder())
            ) from None


def check() -> Environment:
    """As `find`, after ITREX's kernels have run once more. Raises EngineError."""
    found = find()
    _tried(Path(found.python), _("Repair it: {command}", command=INSTALL))
    return found


def suspect() -> None:
    """Have the next installation look again: the environment failed at work."""
    with contextlib.suppress(OSError):
        _record_path().unlink(missing_ok=True)


def missing_files(folder: Path) -> list[str]:
    """Files of installed packages that are not there or have another size than pip wrote."""
    site = next(folder.glob("lib/python*/site-packages"), None)
    if site is None:
        return [str(folder)]
    damaged = []
    for package in distributions(path=[str(site)]):
        for file in package.files or ():
            if file.size is not None and file.suffix != ".pyc":  # which Python writes anew
                try:
                    whole = os.stat(os.path.join(site, file)).st_size == file.size
                except OSError:
                    whole = False
                if not whole:
                    damaged.append(str(file))
    return damaged


def _make(folder: Path) -> None:
    """The environment with all packages of the lock; what an interrupted run finished is kept."""
    steps = pip.Steps(folder, _lock_digest())
    if not steps.done("environment") or missing_files(folder) or not os.access(folder / "bin" / "python", os.X_OK):
        interpreter = _interpreter()
        space.check(_("ITREX's environment"), DISK, folder.parent, cache_home(), EngineError, "ITREX_CHAT_ENGINES")
        shutil.rmtree(folder, ignore_errors=True)
        tell(
            _("Making ITREX's environment in {folder} (the log is {log}).", folder=folder, log=steps.log),
            file=sys.stderr,
        )
        steps.environment(interpreter)
    if not steps.done("torch"):
        steps.install("torch", [*pip.torch_index(), TORCH])
    if not steps.done("packages"):
        steps.install("packages", ["--no-deps", "-r", str(LOCK)], sum(1 for _line in LOCK.open(encoding="utf-8")))


def _verified(python: Path, adopted: bool) -> Environment:
    """The environment of an interpreter after ITREX's kernels have run in it, remembered."""
    advice = (
        _("Name another environment, or have one made: {command}", command=INSTALL)
        if adopted
        else _("Remove {folder} and install it again: {command}", folder=python.parent.parent, command=INSTALL)
    )
    found = Environment(str(python), adopted, _lock_digest(), _tried(python, advice))
    files.write_json(_record_path(), asdict(found))
    return found


def _tried(python: Path, advice: str) -> dict:
    """What `probe` says of an environment that works. Raises EngineError with `advice`."""
    facts = probe(python)
    if not facts.get("problem") and (found := facts["versions"]["intel-extension-for-transformers"]) != VERSION:
        facts = {"problem": _("it has ITREX {found}; this program knows {wanted}", found=found, wanted=VERSION)}
    if problem := facts.get("problem"):
        raise EngineError(
            _(
                "ITREX does not work in the environment of {python} ({problem}). {advice}",
                python=python,
                problem=problem.rstrip("."),
                advice=advice,
            )
        )
    return facts


def probe(python: Path) -> dict:
    """What `probe.py` says in an interpreter: versions, or a "problem"."""
    try:
        run = subprocess.run(
            [python, "-B", HERE / "probe.py"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else _("it does not answer")
        return {"problem": _("it cannot be run: {reason}", reason=reason)}
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = run.stderr.strip().splitlines()[-1:] or [_("exit code {code}", code=run.returncode)]
        return {"problem": last[0][:300]}


def clean_environment() -> dict[str, str]:
    """The variables for a program of ITREX's environment: nothing of ours, and no network."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_PRELOAD")
    }
    return kept | {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONNOUSERSITE": "1",
    }


def _interpreter() -> str:
    """A Python of the version that the lock is for. Raises EngineError."""
    if sys.version_info[:2] == PYTHON and platform.python_implementation() == "CPython":
        return sys.executable
    name = "python{}.{}".format(*PYTHON)
    if found := shutil.which(name):
        return found
    raise EngineError(
        _(
            "ITREX needs CPython {version}, and there is no {name} on the PATH. Install it (Debian, Ubuntu: apt install "
            "{name} {name}-venv), or name an environment that has ITREX: --python PATH",
            version=".".join(map(str, PYTHON)),
            name=name,
        )
    )


def _only_one(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        tell(_("Another process is installing ITREX; waiting for it."), file=sys.stderr)
    return lock


def _recorded() -> Environment | None:
    try:
        return Environment(**json.loads(_record_path().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _record_path() -> Path:
    return engines_home() / "itrex.json"


def _lock_digest() -> str:
    return hashlib.sha256(TORCH.encode() + LOCK.read_bytes()).hexdigest()
