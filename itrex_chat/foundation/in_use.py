"""What lies in the cache and is used: by whom, when it was last, and taking away what nobody uses.

Who works with a folder holds a shared lock on the folder itself (flock(2)) as long as its process lives; who wants to remove
it must have it alone. The folder's own time of modification is that of its last use.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import _

REMOVED = ".removed-"  # begins the name of what is being deleted, which is nothing any more
MOST = 128  # folders that a process holds: of more, the first that it held are let go of
_held: dict[Path, int] = {}  # descriptors of the folders that this process uses


def hold(folder: Path) -> None:
    """Say that this process uses a folder, now and until it ends; nothing, where the file system has no such locks."""
    with contextlib.suppress(OSError):
        if folder not in _held or not _is(_held[folder], folder):
            let_go(folder)
            while len(_held) >= MOST:
                let_go(next(iter(_held)))
            _held[folder] = _locked(folder, fcntl.LOCK_SH)
        os.utime(folder)


def used_at(path: Path) -> float:
    """When a file or folder was used last, in seconds since the epoch: its own time, or the newest of what lies in it."""
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = path.stat().st_mtime
        for entry in os.scandir(path) if path.is_dir() else ():
            with contextlib.suppress(OSError):
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
    return min(newest, time.time())


def by_another(path: Path) -> bool:
    """Whether another process says that it uses a file or folder."""
    try:
        with _alone(path):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def discard(path: Path) -> None:
    """Make a folder or file vanish at once, then delete what it held."""
    gone = path.with_name(f"{REMOVED}{os.getpid()}-{path.name[:200]}")
    _delete(gone)  # of a killed process that had our number
    os.replace(path, gone)
    let_go(path)
    for doomed in path.parent.glob(f"{REMOVED}*"):  # those of a process that was killed here, too
        _delete(doomed)


def discard_unused(path: Path, error: type[ItrexChatError]) -> None:
    """As `discard`. Raises `error` where another process uses it."""
    try:
        with _alone(path):
            discard(path)
    except BlockingIOError:
        raise error(_("Another process is using {folder}; try again when it is done.", folder=path)) from None


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have a file or folder for this process alone. Raises BlockingIOError where another one holds it."""
    if path in _held and _is(_held[path], path):
        fcntl.flock(_held[path], fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            if path in _held:
                fcntl.flock(_held[path], fcntl.LOCK_SH)
        return
    handle = None
    try:
        handle = _locked(path, fcntl.LOCK_EX)
    except BlockingIOError:
        raise
    except OSError:  # the file system has no such locks
        pass
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(path: Path, kind: int) -> int:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is(handle: int, path: Path) -> bool:
    """Whether a descriptor is of what lies at a path now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def let_go(path: Path) -> None:
    """Say that this process does not use a folder any more."""
    if (handle := _held.pop(path, None)) is not None:
        with contextlib.suppress(OSError):
            os.close(handle)
