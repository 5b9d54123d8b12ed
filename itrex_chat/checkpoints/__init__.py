"""Checkpoints: a model's tensors under transformers' names, whatever the files look like.

`open_checkpoint` reads configuration and table of contents and checks that
every tensor is there with the right shape; tensors are then read a few rows
at a time.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itrex_chat.architecture.config import DecoderConfig, from_transformers
from itrex_chat.architecture.layout import EMBEDDING, HEAD, TensorSpec, tensors
from itrex_chat.checkpoints import gguf
from itrex_chat.checkpoints.families import Family, Origin, family_of
from itrex_chat.checkpoints.integers import Integers, Packed
from itrex_chat.checkpoints.packed import PackedFiles
from itrex_chat.checkpoints.places import Place
from itrex_chat.checkpoints.storage import GgufFiles, SafetensorsFiles, Storage, open_storage
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import CheckpointError, ItrexChatError
from itrex_chat.foundation.language import _
from itrex_chat.sources import Source
from itrex_chat.sources.pushed import manifest_in, refusal
from itrex_chat.sources.quantized import OLD_FILES, method_of

DERIVED = re.compile(r"(rotary_emb|rotary_pos_emb)\.inv_freq$|\.attn\.(masked_)?bias$|^rope_freqs\.weight$")
LARGEST_CONFIG = 16 << 20  # bytes
QUANTIZATION = "quantization_config"  # in config.json


@dataclass
class Checkpoint:
    """The weights of one model, lazily.

    `config` is the `config.json` of the architecture that transformers
    defines, `decoder` what this program reads from it, `description` how the
    weights are stored ("float16", "GGUF Q4_K").
    """

    source: Source
    family: str
    config: dict
    decoder: DecoderConfig
    description: str
    _storage: Storage
    _origins: dict[str, Origin]

    def specs(self) -> list[TensorSpec]:
        """Every tensor of the decoder, in the order of use."""
        return list(tensors(self.decoder))

    def dtype(self, name: str) -> torch.dtype:
        """What `rows` gives: what the tensor is stored as; float32 where it is computed, and for all of a GGUF file."""
        origin = self._origins[name]
        return torch.float32 if origin.transform == "normalized" else self._storage.dtype(origin.tensor)

    def stored(self, name: str) -> torch.dtype:
        """What holds the tensor's values exactly: what it is stored as; float32 where it was quantized or is computed."""
        origin = self._origins[name]
        return torch.float32 if origin.transform == "normalized" else self._storage.stored(origin.tensor)

    def place(self, spec: TensorSpec) -> Place | None:
        """Where the tensor lies in a file as it is; None where it is read in another way (`rows`)."""
        origin = self._origins[spec.name]
        place = None if origin.transform else self._storage.place(origin.tensor)
        return place and place.rows(origin.first_row, spec.shape[0])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor, a fresh copy in its stored dtype. Raises CheckpointError."""
        origin = self._origins[name]
        if origin.transform.startswith("unpermuted:"):
            return self._unpermuted(name, origin)[start:stop]
        rows = self._storage.rows(origin.tensor, origin.first_row + start, origin.first_row + stop)
        if origin.transform == "normalized":
            rows = torch.nn.functional.normalize(rows.float())
        if not torch.isfinite(rows).all():
            raise self.not_finite(name)
        return rows

    def packed(self, name: str) -> Packed | None:
        """How a matrix is stored as integers; None for one that is not. Raises CheckpointError for integers that cannot be
        taken as they are."""
        origin = self._origins[name]
        return None if origin.transform == "normalized" else self._storage.packed(origin.tensor)

    def integers(self, name: str, start: int, stop: int) -> Integers:
        """Rows [start, stop) of a matrix that is `packed`, as they are. Raises CheckpointError."""
        origin = self._origins[name]
        if origin.transform.startswith("unpermuted:"):
            rows = self._storage.shapes[origin.tensor][0]
            return self._storage.integers(origin.tensor, 0, rows).ordered(_order(rows, origin)[start:stop])
        return self._storage.integers(origin.tensor, origin.first_row + start, origin.first_row + stop)

    @property
    def quantized_before(self) -> bool:
        """Whether another program made a checkpoint of integers of it; not so for GGUF files, which are read as weights."""
        return isinstance(self._storage, PackedFiles)

    def not_finite(self, name: str) -> CheckpointError:
        """What is raised for a tensor with a value that is no finite number."""
        return CheckpointError(
            _(
                "{folder}: the tensor {name} holds values that are not finite numbers.",
                folder=self.source.folder,
                name=self._origins[name].tensor,
            )
        )

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        return self.rows(spec.name, 0, spec.shape[0])

    def columns(self, name: str) -> int:
        """The width of a matrix."""
        return self._storage.shapes[self._origins[name].tensor][-1]

    def file_of(self, name: str) -> Path | None:
        """The safetensors file that holds a tensor under this name just as it is; None where there is none."""
        if self._origins[name] == Origin(name) and isinstance(self._storage, SafetensorsFiles):
            return self._storage.home(name)
        return None

    def slabs(self, spec: TensorSpec, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """A tensor in parts of about `size` values: first row, row behind the last, and the rows."""
        step = max(8, size // (spec.size // spec.shape[0]) // 8 * 8)
        for start in range(0, spec.shape[0], step):
            stop = min(start + step, spec.shape[0])
            yield start, stop, self.rows(spec.name, start, stop)

    def _unpermuted(self, name: str, origin: Origin) -> torch.Tensor:
        whole = self._storage.rows(origin.tensor, 0, self._storage.shapes[origin.tensor][0])
        return whole[_order(len(whole), origin)]


def _order(rows: int, origin: Origin) -> torch.Tensor:
    """llama.cpp stores the rows of a head as (0, d/2), (1, d/2+1), …; which of its rows are which, back to halves."""
    heads = int(origin.transform.removeprefix("unpermuted:"))
    return torch.arange(rows).reshape(heads, -1, 2).transpose(1, 2).reshape(-1)


def open_checkpoint(source: Source) -> Checkpoint:
    """The model in `source`. Raises CheckpointError naming what is missing, damaged or unknown."""
    if source.format == "safetensors" and (manifest := manifest_in(source.folder)):
        raise CheckpointError(refusal(source.origin, manifest))
    storage = _readable(source, open_storage(source.format, source.weights))
    try:
        family, config = _described(source, storage)
        decoder = from_transformers(config)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, ItrexChatError):
            raise
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise CheckpointError(
            _(
                "{folder}: the model's configuration has a value of another kind than it must be ({reason}).",
                folder=source.folder,
                reason=reason,
            )
        ) from None
    origins = _origins(family, decoder, storage, source)
    return Checkpoint(source, family.name, config, decoder, storage.description(), storage, origins)


def _described(source: Source, storage: Storage) -> tuple[Family, dict]:
    """The family, and the `config.json` of its transformers architecture."""
    if not isinstance(storage, GgufFiles):
        original = read_json(source.folder / "config.json")
        family = family_of(original)
        original.pop(QUANTIZATION, None)  # read by `_readable`
        return family, family.transformers_config(original)
    family = gguf.family(storage.metadata)
    config = gguf.transformers_config(storage.metadata, storage.shapes)
    if config["rope_parameters"]["rope_type"] == "llama3":
        factors = storage.rows("rope_freqs.weight", 0, storage.shapes["rope_freqs.weight"][0])
        config["rope_parameters"] |= gguf.llama3_scaling(factors)
    return family, config


def _readable(source: Source, storage: Storage) -> Storage:
    """The storage, with the integers of GPTQ and its like as matrices."""
    if isinstance(storage, GgufFiles):
        return storage
    told = _quantization_told(source)
    if told is None:
        return storage
    method = method_of(told)
    if not isinstance(storage, SafetensorsFiles):
        raise CheckpointError(
            _("{folder}: a quantized checkpoint is read from safetensors, not from .bin files.", folder=source.folder)
        )
    return PackedFiles(storage, method)


def _quantization_told(source: Source) -> Any:
    """What the model's files say of its quantization; None where it has none. Older programs have a file of its own for it,
    without a method's name."""
    if (told := read_json(source.folder / "config.json").get(QUANTIZATION)) is not None:
        return told
    for file in source.descriptions:
        if file.name in OLD_FILES:
            return {"quant_method": OLD_FILES[file.name]} | read_json(file)
    return None


def read_json(path: Path) -> dict:
    """A JSON object from a checkpoint's folder. Raises CheckpointError."""
    try:
        content = json.loads(files.text_of(path, CheckpointError, LARGEST_CONFIG))
    except (ValueError, RecursionError):
        raise CheckpointError(_("{path} is not valid JSON.", path=path)) from None
    if not isinstance(content, dict):
        raise CheckpointError(_("{path} is not valid JSON.", path=path))
    return content


def _origins(family: Family, decoder: DecoderConfig, storage: Storage, source: Source) -> dict[str, Origin]:
    """Where each tensor is; refuses a checkpoint that lacks one, has one of another shape, or has more."""
    origins = {}
    for spec in tensors(decoder):
        origin = family.origin(spec.name, decoder)
        if spec.name == HEAD and decoder.tied_head:
            origin = family.origin(EMBEDDING, decoder)
        found = storage.shapes.get(origin.tensor)
        if found is None:
            raise CheckpointError(
                _(
                    "{folder}: the tensor {name} is missing; the checkpoint is not complete.",
                    folder=source.folder,
                    name=origin.tensor,
                )
            )
        if found[1:] != spec.shape[1:] or found[0] < origin.first_row + spec.shape[0]:
            raise CheckpointError(
                _(
                    "{folder}: the tensor {name} has the shape {found}, which does not fit config.json.",
                    folder=source.folder,
                    name=origin.tensor,
                    found=list(found),
                )
            )
        origins[spec.name] = origin
    used = {origin.tensor for origin in origins.values()}
    tied = {family.origin(HEAD, decoder).tensor} if decoder.tied_head else set()
    for name in storage.shapes:
        if name not in used | tied and not DERIVED.search(name) and not storage.idle(name):
            raise CheckpointError(
                _(
                    "{folder}: the tensor {name} is not part of the architecture {architecture}.",
                    folder=source.folder,
                    name=name,
                    architecture=decoder.architecture,
                )
            )
    _check_rows(origins, decoder, storage, source)
    return origins


def _check_rows(origins: dict[str, Origin], decoder: DecoderConfig, storage: Storage, source: Source) -> None:
    """Every stored row is used: a matrix with more rows than the configuration says is another model's."""
    used: dict[str, int] = {}
    for spec in tensors(decoder):
        origin = origins[spec.name]
        used[origin.tensor] = max(used.get(origin.tensor, 0), origin.first_row + spec.shape[0])
    for name, rows in used.items():
        if storage.shapes[name][0] != rows:
            raise CheckpointError(
                _(
                    "{folder}: the tensor {name} has the shape {found}, which does not fit config.json.",
                    folder=source.folder,
                    name=name,
                    found=list(storage.shapes[name]),
                )
            )
