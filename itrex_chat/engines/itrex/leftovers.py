"""What ITREX's engine keeps in the cache: prepared folders of models, and records of what it quantized."""

from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat.foundation import files, in_use
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _


def views(home: Path) -> list[Path]:
    """The folders prepared for ITREX (`view.py`)."""
    return sorted(
        folder for folder in (home / "itrex" / "views").glob("*") if folder.is_dir() and not folder.name.startswith(".")
    )


def saved(home: Path) -> list[Path]:
    """The records of what ITREX quantized, beside some of which are integers and scales of its own (`saved.py`)."""
    return sorted((home / "itrex" / "saved").glob("*.json"))


def own(record: Path) -> Path:
    """The file with ITREX's own integers and scales that a record may have."""
    return record.with_suffix(".safetensors")


def forget(record: Path) -> None:
    """Remove a record and what is beside it; ITREX quantizes again when it is needed."""
    with files.disk_errors(EngineError, _("Removing {folder}", folder=record)):
        try:
            with FileLock(record.with_suffix(".lock"), timeout=0):
                record.unlink(missing_ok=True)
                own(record).unlink(missing_ok=True)
        except Timeout:
            raise EngineError(
                _("Another process is using {folder}; try again when it is done.", folder=record)
            ) from None


def remove(view: Path) -> None:
    """Make a prepared folder vanish at once, then delete what it held; it is prepared again when it is needed."""
    with files.disk_errors(EngineError, _("Removing {folder}", folder=view)):
        try:
            with FileLock(view / ".lock", timeout=0):
                in_use.discard_unused(view, EngineError)
        except Timeout:
            raise EngineError(
                _("Another process is preparing {folder}; try again when it is done.", folder=view)
            ) from None
