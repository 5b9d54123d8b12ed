"""Models that Hugging Face's or ModelScope's own programs have downloaded: used where they lie, once their content is verified.

A file is linked, not copied: hard, so that it stays when the other program removes its own, or by name across disks.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import selection
from itrex_chat.sources.digests import DigestMemo

NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


def use(spec: SourceSpec, folder: Path, missing: dict[str, dict], memo: DigestMemo) -> None:
    """Link files of other programs into `folder` that have the size and the digest of a missing one."""
    used = {}
    for name, file in missing.items():
        if not file["digest"]:
            continue
        for other in _folders(spec):
            path = other / name
            with contextlib.suppress(OSError, RuntimeError):  # the latter is what a loop of links gives
                real = path.resolve(strict=True)
                if real.is_file() and real.stat().st_size == file["size"] and _has(real, file["digest"], memo):
                    digest = memo.sha256([real])[real]  # before its links change, and with them its change time
                    _link(real, folder / name)
                    used[name] = other
                    memo.learn({folder / name: digest})
                    break
    if used:
        tell(
            _("{count} files are taken from {folder}.", count=len(used), folder=next(iter(used.values()))),
            file=sys.stderr,
        )


def record(hub: str, repository: str, revision: str) -> dict | None:
    """What Hugging Face's cache knows of a repository without the hub: its commit, and files named by their content."""
    if hub != "huggingface":
        return None
    root = _huggingface() / f"models--{repository.replace('/', '--')}"
    try:
        commit = (
            revision
            if COMMIT.fullmatch(revision)
            else (root / "refs" / (revision or "main")).read_text("utf-8").strip()
        )
        if not COMMIT.fullmatch(commit):
            return None
        snapshot = root / "snapshots" / commit
        names = [path.name for path in snapshot.iterdir()]
        listed = {}
        for name in selection.descriptions(names) + selection.weights(names):
            blob = (snapshot / name).resolve(strict=True)
            if not NAMED_BY_CONTENT.fullmatch(blob.name):
                return None
            listed[name] = {"size": blob.stat().st_size, "digest": blob.name}
    except (OSError, ValueError, RuntimeError):
        return None
    return {"origin": {"commit": commit}, "files": listed}


def _has(path: Path, digest: str, memo: DigestMemo) -> bool:
    if len(digest) == 64:
        return memo.sha256([path])[path] == digest
    return _git(path) == digest


def _git(path: Path) -> str:
    import hashlib

    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _link(real: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(real, target)
    except OSError:
        target.symlink_to(real)


def _folders(spec: SourceSpec) -> Iterator[Path]:
    """Where either program may keep the repository's files, the newest first."""
    if spec.huggingface:
        snapshots = _huggingface() / f"models--{spec.huggingface.replace('/', '--')}" / "snapshots"
        yield from _newest_first(snapshots)
    if spec.modelscope:
        owner, _slash, name = spec.modelscope.partition("/")
        cache = os.environ.get("MODELSCOPE_CACHE")
        base = Path(cache).expanduser() if cache else Path.home() / ".cache" / "modelscope"
        yield from _newest_first(base / "models" / f"{owner}--{name}" / "snapshots")
        for kept in (name, name.replace(".", "___")):  # its older versions
            for root in (base, base / "models", base / "hub", base / "hub" / "models"):
                yield root / owner / kept


def _newest_first(snapshots: Path) -> list[Path]:
    try:
        return sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []


def _huggingface() -> Path:
    if chosen := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(chosen)).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"
