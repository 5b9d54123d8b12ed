"""Everything in the cache, room by room, with what needs it."""

import functools
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat.artifacts import kept as artifacts
from itrex_chat.disk.needs import told
from itrex_chat.engines import engines
from itrex_chat.foundation import files, in_use, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.kept import KINDS, Kept
from itrex_chat.foundation.language import _
from itrex_chat.quality.store import OF
from itrex_chat.runs.record import RUN
from itrex_chat.settings.variant import titled
from itrex_chat.sources import kept as sources


def everything(home: Path) -> list[Kept]:
    """All that is kept in a cache, in the order of `KINDS`, the largest of each kind first."""
    found = sources.kept(home) + artifacts.kept(home)
    found += [kept for engine in engines() for kept in engine.kept(home)]
    found += [*_runs(home), *_measured(home), *_others(home)]
    return sorted(told(found), key=lambda kept: (KINDS.index(kept.kind), -kept.size, kept.name))


def _runs(home: Path) -> Iterator[Kept]:
    for folder in _folders(home / "runs"):
        if (folder / RUN).is_file():
            remove = functools.partial(_remove, folder, folder / ".lock")
            text = ", ".join(_models(folder / RUN)) or _("answers and reports")
            yield Kept("runs", folder.name, folder, remove, text=text, again=False)
    for kind, text in (("sweeps", _("recipes that were tried")), ("attributions", _("what each part costs"))):
        for folder in _folders(home / kind):
            yield Kept("reports", folder.name, folder, functools.partial(_remove, folder), text=text, again=False)


def _models(run: Path) -> list[str]:
    """The models of a run, as far as its record says."""
    try:
        asked = stored.parsed_json(files.text_of(run, RunError))["spec"]["models"]
        return [str(model["label"])[:80] for model in asked]
    except (RunError, ValueError, KeyError, TypeError):
        return []


def _measured(home: Path) -> Iterator[Kept]:
    kinds = (("reference", _("predictions of a baseline")), ("scores", _("figures of a variant")))
    for kind, text in kinds:
        for folder in _folders(home / "quality" / kind):
            yield Kept(
                "measurements",
                f"{kind}-{folder.name}",
                folder,
                functools.partial(_remove, folder),
                text=_of(folder) or text,
                needed=_("measure and sweep need it; it is measured again when it is missing"),
                names=(folder.name,),
            )


def _of(folder: Path) -> str:
    """Whose predictions these are, where that was kept."""
    try:
        told = stored.parsed_json(files.text_of(folder / OF, RunError))
        return _("{variant} of {model}", variant=titled(str(told["variant"])), model=told["model"])
    except (RunError, ValueError, KeyError, TypeError):
        return ""


def _others(home: Path) -> Iterator[Kept]:
    for folder in _folders(home / "environments"):
        yield Kept(
            "environments",
            folder.name,
            folder,
            functools.partial(_remove, folder, folder.with_name(f"{folder.name}.lock")),
            text=_("an environment of the benchmarks"),
            needed=_("benchmarks need it; they make it again"),
            beside=(folder.with_name(f"{folder.name}.log"),),
        )
    for folder in _folders(home / "pushed"):
        yield Kept("prepared", folder.name, folder, functools.partial(_remove, folder), text=_("what push would send"))
    for kind, path, text in (
        ("benchmarks", home / "benchmarks", _("models and results of the benchmarks")),
        ("logs", home / "logs", _("where mistakes of this program arose")),
    ):
        if path.is_dir():
            yield Kept(kind, path.name, path, functools.partial(_remove, path), text=text)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _remove(folder: Path, lock: Path | None = None) -> None:
    """Raises RunError."""
    with files.disk_errors(RunError, _("Removing {folder}", folder=folder)):
        try:
            if lock is None:
                in_use.discard_unused(folder, RunError)
                return
            with FileLock(lock, timeout=0):
                in_use.discard_unused(folder, RunError)
        except Timeout:
            raise RunError(_("Another process is using {folder}; try again when it is done.", folder=folder)) from None
