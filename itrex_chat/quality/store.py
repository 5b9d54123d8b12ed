"""Results for each passage in the cache: one safetensors file each, whole or absent, verified when read.

    quality/reference/<model>/<passage>.safetensors    distributions (`Compact`)
    quality/scores/<variant>/<passage>.safetensors     figures of each position (`Score`)

The folder's key is a digest of all that determines the numbers, the file's of
the token ids; a measurement that is repeated or was interrupted goes on with
what is there. Files carry the SHA-256 of their tensors; a damaged one is
measured again.
"""

import contextlib
import hashlib
import sys
from pathlib import Path

import numpy as np

from itrex_chat.foundation import files, in_use
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.jobs.passage import Passage

NUMERICS_VERSION = 2  # raise it when the same model and tokens give other numbers

OF = ".of.json"  # in a folder of results: whose they are


def digest(value: object) -> str:
    return sha256_of_json(value)[:24]


class Parts:
    """The results of one model on passages. `kind` is "reference" or "scores"."""

    def __init__(self, kind: str, key: str, home: Path | None = None):
        self.key, self.folder = key, (home or cache_home()) / "quality" / kind / key

    def missing(self, passages: list[Passage]) -> list[Passage]:
        """The passages that are not there, or damaged."""
        in_use.hold(self.folder)
        return [passage for passage in passages if self.read(passage) is None]

    def read(self, passage: Passage) -> dict[str, np.ndarray] | None:
        """The arrays of a passage, or None. A damaged file is named and counts as absent."""
        from safetensors import SafetensorError, safe_open

        path = self._path(passage)
        if not path.is_file():
            return None
        try:
            with files.reached(path) as reached, safe_open(reached, "np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open does not iterate
                recorded = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError):
            arrays, recorded = {}, None
        if recorded is None or recorded != _digest(arrays):
            tell(_("{path} is damaged; it is measured again.", path=path), file=sys.stderr)
            return None
        return arrays

    def all(self, passages: list[Passage]) -> list[dict[str, np.ndarray]]:
        """The arrays of passages. Raises RunError where one is not there, or damaged."""
        found = []
        for passage in passages:
            if (arrays := self.read(passage)) is None:
                raise RunError(
                    _("The results for {passage} are not in the cache any more; measure again.", passage=passage.name)
                )
            found.append(arrays)
        return found

    def write(self, passage: Passage, arrays: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with files.disk_errors(RunError, _("Writing to the cache {folder}", folder=self.folder)):
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.replacing(self._path(passage)) as partial, files.reached(self.folder) as folder:
                save_file(arrays, folder / partial.name, {"sha256": _digest(arrays)})
            in_use.hold(self.folder)

    def told(self, model: str, variant: str) -> None:
        """Keep which model's variant these are of, for people who look at what is on the disk."""
        with contextlib.suppress(OSError):
            if self.folder.is_dir() and not (self.folder / OF).exists():
                files.write_json(self.folder / OF, {"model": model, "variant": variant})

    def nbytes(self, passages: list[Passage]) -> int:
        """Bytes on disk."""
        paths = (self._path(passage) for passage in passages)
        return sum(path.stat().st_size for path in paths if path.is_file())

    def _path(self, passage: Passage) -> Path:
        return self.folder / f"{passage.key}.safetensors"


def _digest(arrays: dict[str, np.ndarray]) -> str:
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        whole.update(arrays[name].tobytes())
    return whole.hexdigest()
