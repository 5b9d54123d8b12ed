"""What ITREX's engine keeps in the cache: prepared folders of models, and records of what it quantized."""
import os
import shutil
from pathlib import Path

from filelock import FileLock


def views(home: Path) -> list[Path]:
    """The folders prepared for ITREX (`view.py`)."""
    return sorted(folder for folder in (home / "itrex" / "views").glob("*") if folder.is_dir() and not folder.name.startswith("."))


def size(folder: Path) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def remove(view: Path) -> None:
    """Make a prepared folder vanish at once, then delete what it held; it is prepared again when it is needed."""
    with FileLock(view / ".lock"):
        doomed = view.with_name(f".removed-{os.getpid()}-{view.name}")
        view.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
