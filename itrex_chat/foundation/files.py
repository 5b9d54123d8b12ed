"""Files that are written whole or not at all, and errors of the disk as sentences."""

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import _

LONGEST_NAME = 255  # bytes
PRIVATE = 0o600  # permissions of what only its owner reads
LARGEST = 64 << 20  # bytes of what is read as a whole: parsed, it takes many times that
OF_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers tell an errno


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path that becomes `path`, synced to disk, when the block ends without an error; `mode` without the umask
    are its permissions."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.chmod(partial, mode & ~_umask())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def results_in(folder: Path, error: type[ItrexChatError]) -> Iterator[None]:
    """A folder for what long work will give: made and tried before it; gone again where nothing came of it.

    Raises `error` at once where nothing can be written there.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    writable(folder, error)
    try:
        yield
    finally:
        for made in missing:
            with contextlib.suppress(OSError):  # it has something in it
                made.rmdir()


def writable(folder: Path, error: type[ItrexChatError]) -> None:
    """Make a folder, if it is not there, and write something into it to try. Raises `error`."""
    with disk_errors(error, _("Writing to {folder}", folder=folder)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(4096))


@contextlib.contextmanager
def reached(path: Path) -> Iterator[Path]:
    """A file or folder under a name that is the same in UTF-8: libraries in C++ and Rust know names in no other encoding.

    In a locale such as zh_CN.GB18030 its own may not be; then it is reached by a descriptor, which the block holds.
    """
    if os.fsencode(path) == str(path).encode("utf-8", "replace"):
        yield path
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    with replacing(path, mode) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))  # a lone surrogate becomes a question mark


def write_json(path: Path, value: object, mode: int = 0o666) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n", mode)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def text_of(path: Path, error: type[Exception], largest: int = LARGEST, errors: str = "strict") -> str:
    """The text in a regular file of at most `largest` bytes. Raises `error` with a sentence, UnicodeDecodeError."""
    return bytes_of(path, error, largest).decode("utf-8", errors)


def bytes_of(path: Path, error: type[Exception], largest: int = LARGEST) -> bytes:
    """The content of a regular file of at most `largest` bytes. Raises `error` with a sentence."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(
                    _(
                        "{path} cannot be read: {reason}.",
                        path=path,
                        reason=_("it is a device, a pipe or a socket, no file"),
                    )
                )
            # Some of the system's files have no size and no end.
            if found.st_size > largest or len(content := file.read(largest + 1)) > largest:
                raise error(_("{file} is too large to be what its name says.", file=path))
            return content
    except OSError as problem:
        raise error(_("{path} cannot be read: {reason}.", path=path, reason=why(problem))) from None
    except ValueError as problem:  # a name with a null character, or one that the locale cannot say
        if isinstance(problem, ItrexChatError):
            raise
        raise error(
            _("{path} cannot be read: {reason}.", path=ascii(str(path)), reason=os.strerror(errno.ENOENT))
        ) from None


def is_name(text: object) -> bool:
    """Whether a file in a folder can have this name: not a path, and nothing that a system refuses."""
    if not isinstance(text, str) or text in ("", ".", "..") or any(character in text for character in "/\\\0"):
        return False
    try:
        return len(text.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:  # half a character
        return False


def why(problem: OSError) -> str:
    """What the system says of an error."""
    return os.strerror(problem.errno) if problem.errno else str(problem)


@contextlib.contextmanager
def disk_errors(error: type[ItrexChatError], what: str) -> Iterator[None]:
    """Turn whatever a disk does into a sentence about `what`: full, read-only, forbidden, missing, too long a name, …"""
    try:
        yield
    except (TimeoutError, ConnectionError, ChildProcessError, InterruptedError, ItrexChatError):
        raise  # not of the disk
    except OSError as problem:
        if problem.errno not in errno.errorcode:
            raise  # a library's own, of the network for instance
        raise error(_("{what} failed: {reason}.", what=what, reason=_reason(problem))) from problem
    except UnicodeEncodeError as problem:
        raise error(_("{what} failed: {reason}.", what=what, reason=os.strerror(errno.EILSEQ))) from problem
    except Exception as problem:
        if told := OF_RUST.search(str(problem)):
            told_by_rust = OSError(int(told[1]), "")
            raise error(_("{what} failed: {reason}.", what=what, reason=_reason(told_by_rust))) from problem
        raise


def _reason(problem: OSError) -> str:
    """What is wrong and what to do; the system's own words where there are no better ones."""
    path = problem.filename or "?"
    reasons = {
        errno.ENOSPC: _(
            "there is no space left on the disk; free some or choose another disk (ITREX_CHAT_CACHE for the cache)"
        ),
        errno.EDQUOT: _("the disk quota is used up; free some or choose another disk (ITREX_CHAT_CACHE for the cache)"),
        errno.EROFS: _("the disk is read-only; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"),
        errno.EACCES: _("permission denied; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"),
        errno.EPERM: _("permission denied; choose a folder that can be written (ITREX_CHAT_CACHE for the cache)"),
        errno.ENOENT: _("{path} cannot be made; choose another folder (ITREX_CHAT_CACHE for the cache)", path=path),
        errno.ENOTDIR: _(
            "{path} would be inside of a file; choose another folder (ITREX_CHAT_CACHE for the cache)", path=path
        ),
        errno.EEXIST: _("{path} is not a folder; choose another one (ITREX_CHAT_CACHE for the cache)", path=path),
        errno.EIO: _("the disk reports an error"),
    }
    return reasons.get(problem.errno or 0) or why(problem)


def _without_waiting(name: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to is opened, too, instead of waited for."""
    return os.open(name, flags | os.O_NONBLOCK)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
