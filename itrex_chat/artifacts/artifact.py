"""One artifact: its record, its check and its tensors."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itrex_chat.artifacts import manifest as manifests
from itrex_chat.foundation import files
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import ArtifactError, CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

if TYPE_CHECKING:  # torch is not needed to see what is in the cache
    import torch

    from itrex_chat.architecture.config import DecoderConfig
    from itrex_chat.artifacts.expected import Expected
    from itrex_chat.quantization.tensor import QuantizedTensor

HASHING_THREADS = 4
LARGE = 4 << 20  # bytes


@dataclass
class Artifact:
    """A quantized model in `folder`; `manifest` says everything about it."""

    folder: Path
    manifest: dict
    _file: tuple[Path, Any] | None = field(
        default=None, repr=False
    )  # the weight file read last: tensors are read in its order
    _expected: "dict[str, Expected]" = field(default_factory=dict, repr=False)  # filled by `decoder`

    @classmethod
    def open(cls, folder: Path) -> "Artifact":
        """The artifact in a folder, its files there and of the right size. Raises ArtifactError naming damage."""
        artifact = cls(folder, manifests.read(folder))
        for name, recorded in artifact.manifest["files"].items():
            path = folder / name
            if not path.is_file():
                raise ArtifactError(_("{path} is missing.", path=path))
            if (size := path.stat().st_size) != recorded["size"]:
                raise ArtifactError(
                    _(
                        "{path} is damaged: it has {size} bytes instead of {expected}.",
                        path=path,
                        size=size,
                        expected=recorded["size"],
                    )
                )
        return artifact

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def family(self) -> str:
        return self.manifest["family"]

    @property
    def variant(self) -> str:
        """ "int4" or "int8"."""
        return self.manifest["variant"]

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(recorded["size"] for recorded in self.manifest["files"].values())

    def summary(self) -> str:
        settings = self.manifest["recipe"]["quantization"]
        algorithm, budget = (self.manifest["content"].get(name) for name in ("algorithm", "budget"))
        return (
            f"{self.name}  {settings['weight_dtype']} g{settings['group_size']}, head {settings['head']}  "
            + (f"{algorithm}  " if algorithm else "")
            + (f"{_('budget')} {budget}  " if budget else "")
            + f"{readable(self.nbytes())}  {self.folder.name}"
        )

    def verify(self) -> None:
        """Read everything and compare digests. Raises ArtifactError naming the damaged file."""

        def check(item: tuple[str, dict]) -> None:
            name, recorded = item
            if sha256(self.folder / name) != recorded["sha256"]:
                raise ArtifactError(
                    _("{path} is damaged: its SHA-256 is not the recorded one.", path=self.folder / name)
                )

        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            list(threads.map(check, self.manifest["files"].items()))

    def stamp(self) -> str:
        """Sizes, inodes and times of all files: it changes when one of them does. Raises ArtifactError."""
        try:
            stats = [(self.folder / name).stat() for name in sorted(self.manifest["files"])]
        except OSError as error:
            raise ArtifactError(
                _("{path} cannot be read: {reason}.", path=error.filename, reason=error.strerror)
            ) from None
        seen = [[stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns] for stat in stats]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    @cached_property
    def decoder(self) -> "DecoderConfig":
        """As it was read from the checkpoint; the tensors that it needs are in the files. Raises ArtifactError."""
        from itrex_chat.architecture.config import from_stored

        try:
            config = from_stored(self.manifest["decoder"])
        except CheckpointError as error:
            raise self._damaged(str(error)) from None
        self._hold(config)
        return config

    def _hold(self, config: "DecoderConfig") -> None:
        """The manifest lists the tensors of that decoder, no more and no fewer."""
        from itrex_chat.artifacts.expected import expected

        try:
            self._expected = expected(config, self.manifest["matrices"])
        except ValueError as error:
            raise self._damaged(_("{name} cannot be quantized like that", name=error)) from None
        if odd := self._expected.keys() ^ self.manifest["tensors"].keys():
            raise self._damaged(_("the tensor {name} does not fit the decoder", name=min(odd)))

    def _damaged(self, reason: str) -> ArtifactError:
        return ArtifactError(
            _("{path} is damaged: {reason}.", path=self.folder / manifests.FILE, reason=reason.rstrip("."))
        )

    def has(self, name: str) -> bool:
        return name in self.manifest["tensors"]

    def tensor(self, name: str) -> "torch.Tensor":
        """A stored tensor by its name in the file. Raises ArtifactError where it is not what the decoder needs."""
        return self._mapped(name).clone()

    def _mapped(self, name: str) -> "torch.Tensor":
        """A stored tensor in the file itself, whose pages take memory as long as the tensor lives."""
        from safetensors import SafetensorError, safe_open

        if self.decoder and name not in self._expected:
            raise self._damaged(_("the tensor {name} does not fit the decoder", name=name))
        path = self.folder / self.manifest["tensors"][name]
        try:
            if self._file is None or self._file[0] != path:
                with files.reached(path) as reached:
                    self._file = path, safe_open(reached, "pt")
            tensor = self._file[1].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                _("{path} cannot be read: {reason}.", path=path, reason=" ".join(str(error).split())[:160].rstrip("."))
            ) from None
        if not self._expected[name].holds(tensor):
            raise ArtifactError(
                _(
                    "{path} is damaged: the tensor {name} has the shape {found} and the type {dtype}.",
                    path=path,
                    name=name,
                    found=list(tensor.shape),
                    dtype=str(tensor.dtype).removeprefix("torch."),
                )
            )
        if tensor.nbytes > LARGE:
            self._file = None  # so that the pages go with the tensor
        return tensor

    def matrix(self, name: str) -> "QuantizedTensor | torch.Tensor":
        """The matrix of a module: quantized, to be packed and let go, or a plain tensor where it was left alone."""
        from itrex_chat.quantization.tensor import QuantizedTensor, unpacked_zeros

        if name not in self.manifest["matrices"]:
            return self.tensor(f"{name}.weight")
        bits, group_size, *kind = self.manifest["matrices"][name]
        qweight, scales = self._mapped(f"{name}.qweight"), self._mapped(f"{name}.scales")
        zeros = self._mapped(f"{name}.{kind[0]}") if kind else None
        if kind == ["qzeros"] and zeros is not None:
            zeros = unpacked_zeros(zeros, scales.shape[1])
        return QuantizedTensor(qweight, scales, bits, group_size, zeros)
