"""What ITREX's engine keeps in the cache: prepared folders of models, and records of what it quantized."""
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat import files
from itrex_chat.errors import EngineError
from itrex_chat.language import _


def views(home: Path) -> list[Path]:
    """The folders prepared for ITREX (`view.py`)."""
    return sorted(folder for folder in (home / "itrex" / "views").glob("*") if folder.is_dir() and not folder.name.startswith("."))


def saved(home: Path, name: str) -> list[Path]:
    """The files of what ITREX quantized of a model (`saved.py`)."""
    return [file for file in (home / "itrex" / "saved").glob("*") if file.name.startswith(f"{name}-int") and file.suffix != ".lock"]


def size(folder: Path) -> int:
    """Bytes on disk, without what is only linked."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def remove(view: Path) -> None:
    """Make a prepared folder vanish at once, then delete what it held; it is prepared again when it is needed."""
    with files.disk_errors(EngineError, _("Removing {folder}", folder=view)):
        try:
            with FileLock(view / ".lock", timeout=0):
                view.rename(view.with_name(f".removed-{os.getpid()}-{view.name}"))
        except Timeout:
            raise EngineError(_("Another process is preparing {folder}; try again when it is done.", folder=view)) from None
    for doomed in view.parent.glob(".removed-*"):  # those of a process that was killed here, too
        shutil.rmtree(doomed, ignore_errors=True)
