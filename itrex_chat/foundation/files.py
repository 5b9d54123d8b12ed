"""Files that are written whole or not at all, and errors of the disk as sentences."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import _


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path`, synced to disk, when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(error: type[ItrexChatError], what: str) -> Iterator[None]:
    """Turn a full, read-only, forbidden or missing disk into a sentence about `what`."""
    try:
        yield
    except OSError as problem:
        path = problem.filename
        reasons = {
            errno.ENOSPC: _(
                "there is no space left on the disk; free some or choose another disk (ITREX_CHAT_CACHE for the cache)"
            ),
            errno.EDQUOT: _(
                "the disk quota is used up; free some or choose another disk (ITREX_CHAT_CACHE for the cache)"
            ),
            errno.EROFS: _(
                "the disk is read-only; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"
            ),
            errno.EACCES: _("permission denied; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"),
            errno.EPERM: _("permission denied; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"),
            errno.ENOENT: _("{path} cannot be made; choose another folder (ITREX_CHAT_CACHE for the cache)", path=path),
            errno.ENOTDIR: _("{path} is not a folder; choose another one (ITREX_CHAT_CACHE for the cache)", path=path),
            errno.EEXIST: _("{path} is not a folder; choose another one (ITREX_CHAT_CACHE for the cache)", path=path),
            errno.EIO: _("the disk reports an error"),
        }
        if problem.errno not in reasons:
            raise
        raise error(_("{what} failed: {reason}.", what=what, reason=reasons[problem.errno])) from problem


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
