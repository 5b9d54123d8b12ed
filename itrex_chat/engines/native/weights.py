"""Variants of a model: the same decoder with its linear layers in FP32, BF16, INT4 or INT8.

FP32 and BF16 are read from the checkpoint, INT4 and INT8 from an artifact. FP32 is what is computed: matrices that the
checkpoint has in 16 bits stay in them (`decoder/linear.py`), unless `fp32.storage` says otherwise. What is kept as it is
stored stays in its file, which is mapped and brought into memory, with a look whether all values are finite numbers the first
time (`engines/native/finite.py`). Everything else is read.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm import tqdm

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import TensorSpec, tensors
from itrex_chat.checkpoints.places import damaged
from itrex_chat.decoder.linear import DenseLinear, Linear, QuantizedLinear, StackedLinear, panel_of, parts_of
from itrex_chat.decoder.loading import linear_names, load_decoder
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines.native import finite
from itrex_chat.engines.native.finite import Finite
from itrex_chat.engines.native.streaming import PIECE, Streaming
from itrex_chat.foundation import progress
from itrex_chat.foundation.language import _
from itrex_chat.kernels import Kernel, choose
from itrex_chat.kernels.native import Native
from itrex_chat.native import large_pages
from itrex_chat.native.mapping import Mapping
from itrex_chat.native.stream import Stream
from itrex_chat.quantization.tensor import QuantizedTensor

if TYPE_CHECKING:
    from itrex_chat.artifacts.artifact import Artifact
    from itrex_chat.checkpoints import Checkpoint
    from itrex_chat.checkpoints.places import Place

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
T = TypeVar("T", torch.Tensor, QuantizedTensor, QuantizedTensor | torch.Tensor)
SLAB = 1 << 24  # values converted at a time
Planning = Callable[[list[tuple[str, int]]], Streaming]


def load_dense(
    checkpoint: "Checkpoint",
    precision: str,
    storage: str = "stored",
    plan: Planning = lambda matrices: Streaming(),
    home: Path | None = None,
) -> Decoder:
    """The FP32 or BF16 variant of a checkpoint; `storage` as in `settings.recipe.Fp32`. `plan` is given the matrices that
    lie in files as they are kept, names and bytes in the order of a pass, and says which of them are streamed. What was
    seen of files is remembered in the cache `home`. Raises CheckpointError."""
    with _bar(checkpoint.decoder, precision) as bar:
        weights = DenseWeights(checkpoint, precision, storage, bar, home)
        weights.stream_as(plan(weights.in_files()))
        decoder = dataclasses.replace(load_decoder(weights), mapping=weights.mapping, stream=weights.stream)
    weights.mapping.check()
    weights.finite.keep()
    if decoder.stream:
        decoder.stream.start()
    return decoder.with_native_pass() if choose().name == Native.name else decoder


def load_quantized(artifact: "Artifact", kernel: Kernel, compute_dtype: str) -> Decoder:
    """The quantized variant in an artifact, packed for `kernel`. Raises ArtifactError, KernelError."""
    with _bar(artifact.decoder, artifact.variant) as bar:
        return load_decoder(QuantizedWeights(artifact, kernel, compute_dtype, bar)).with_native_pass()


def kept_in_16_bits(decoder: Decoder) -> dict:
    """What `Facts` tells of matrices that are computed in FP32 and kept in 16 bits; nothing where most are not."""
    parts = [part for linear in decoder.linears() for part in parts_of(linear)]
    dense = [part for part in parts if isinstance(part, DenseLinear) and part.compute == "fp32"]
    short = [part for part in dense if part.storage != "fp32"]
    if sum(part.nbytes() for part in short) * 2 <= decoder.weight_bytes() - sum(part.nbytes() for part in short):
        return {}
    most = max(short, key=DenseLinear.nbytes).weight.dtype
    return {
        "storage": str(most).removeprefix("torch."),
        "wide_bytes": decoder.weight_bytes() + sum(part.nbytes() for part in short),
    }


def _bar(config: DecoderConfig, precision: str) -> tqdm:
    count = sum(spec.size for spec in tensors(config))
    return progress.bar(_("loading {variant}", variant=precision), count, "weights")


def kept_as(stored: torch.dtype, precision: str, storage: str) -> torch.dtype:
    """What a matrix is kept as in a dense variant, where the checkpoint has it as `stored`."""
    return stored if precision == "fp32" and storage == "stored" else DTYPES[precision]


class DenseWeights:
    """Parts of a decoder from a checkpoint, matrices computed in `precision`; `bar` counts values."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        precision: str,
        storage: str = "stored",
        bar: tqdm | None = None,
        home: Path | None = None,
    ):
        self.config, self._checkpoint, self._bar = checkpoint.decoder, checkpoint, bar
        self._precision, self._storage = precision, storage
        self._specs = {spec.name: spec for spec in tensors(self.config)}
        self._embedding: torch.Tensor | None = None
        self._streamed: frozenset[str] = frozenset()
        self.mapping, self.stream = Mapping(), None  # type: Mapping, Stream | None
        self.finite = Finite(self.mapping, home and home / finite.FILE)

    def in_files(self) -> list[tuple[str, int]]:
        """The matrices that lie in files as they are kept, in the order of a pass: the name of each one's first tensor,
        and its bytes."""
        products = [[self._specs[f"{name}.weight"] for name in names] for names in linear_names(self.config)]
        return [
            (run[0].name, sum(spec.size for spec in run) * self._dtype(run[0]).itemsize)
            for specs in products
            for run in self._runs(specs)
            if self._lies(run[0], self._dtype(run[0]))
        ]

    def stream_as(self, plan: Streaming) -> None:
        """Take these matrices from a stream instead of memory."""
        self._streamed = plan.streamed
        if plan.streamed:
            self.stream = Stream(plan.ring)

    def vector(self, name: str) -> torch.Tensor:
        return self._read([self._specs[name]], torch.float32)

    def embedding(self, name: str) -> torch.Tensor:
        self._embedding = self._matrix([self._specs[name]], self._checkpoint.stored(name))
        return self._embedding

    def linear(self, names: list[str]) -> Linear:
        """A product for each run of parts that lie one behind the other; one for all, as a rule."""
        specs = [self._specs[f"{name}.weight"] for name in names]
        tied = self._embedding if specs[0].role == "head" and self.config.tied_head else None
        if tied is not None and tied.dtype == self._dtype(specs[0]) and specs[0].name not in self._streamed:
            return DenseLinear(tied, compute=self._precision)
        parts = [part for run in self._runs(specs) for part in self._layers(run)]
        return parts[0] if len(parts) == 1 else StackedLinear(tuple(parts))

    def _runs(self, specs: list[TensorSpec]) -> list[list[TensorSpec]]:
        """The parts of a layer, those together that are one matrix in the file, or nowhere as they are. The same however
        they are kept, so that the products are."""
        runs: list[list[TensorSpec]] = []
        before: Place | None = None
        for spec in specs:
            place = self._checkpoint.place(spec)
            follows = place is before if not place or not before else place.follows(before)
            if runs and follows and self._dtype(spec) == self._dtype(runs[-1][-1]):
                runs[-1].append(spec)
            else:
                runs.append([spec])
            before = place
        return runs

    def _dtype(self, spec: TensorSpec) -> torch.dtype:
        return kept_as(self._checkpoint.stored(spec.name), self._precision, self._storage)

    def _layers(self, run: list[TensorSpec]) -> list[DenseLinear]:
        """A matrix, or the pieces of one that is streamed."""
        names = [f"{spec.name.removesuffix('weight')}bias" for spec in run]
        biases = [self._specs[name] for name in names if name in self._specs]
        bias = self._read(biases, torch.float32) if biases else None
        if run[0].name in self._streamed:
            return self._pieces(run, bias)
        return [DenseLinear(self._matrix(run, self._dtype(run[0])), bias, self._precision)]

    def _pieces(self, run: list[TensorSpec], bias: torch.Tensor | None) -> list[DenseLinear]:
        """Parts of a matrix, whole panels each, so that they give the product of the matrix."""
        place = self._checkpoint.place(run[0])
        assert place and self.stream
        outputs, inputs = sum(spec.shape[0] for spec in run), run[0].shape[1]
        panel = panel_of(outputs, inputs)
        most = max(1, PIECE // (inputs * place.dtype.itemsize * panel)) * panel
        parts = []
        for first in range(0, outputs, most):
            count = min(most, outputs - first)
            at, odd = place.rows(first, count), self._checkpoint.not_finite(run[0].name)
            try:
                weight, piece = self.stream.add(at.path, at.offset, at.dtype, (count, inputs), odd)
            except OSError as error:
                raise damaged(at.path, error) from None
            part = None if bias is None else bias[first : first + count]
            parts.append(DenseLinear(weight, part, self._precision, panel, piece))
        for spec in run:
            self._count(spec)
        return parts

    def _lies(self, spec: TensorSpec, dtype: torch.dtype) -> bool:
        """Whether a tensor lies in a file as it is kept."""
        place = self._checkpoint.place(spec)
        return place is not None and place.dtype == dtype and place.offset % dtype.itemsize == 0

    def _matrix(self, run: list[TensorSpec], dtype: torch.dtype) -> torch.Tensor:
        """Tensors below each other: where they lie, if they lie there as they are kept."""
        place = self._checkpoint.place(run[0])
        if place is None or not self._lies(run[0], dtype):
            return self._read(run, dtype)
        shape = sum(spec.shape[0] for spec in run), *run[0].shape[1:]
        matrix = self.mapping.tensor(place.path, place.offset, dtype, shape)
        if matrix is None:
            return self._read(run, dtype)
        odd = self.finite.bring(place.path, place.offset, matrix.split([spec.shape[0] for spec in run]))
        if odd is not None:
            raise self._checkpoint.not_finite(run[odd].name)
        for spec in run:
            self._count(spec)
        return matrix

    def _read(self, specs: list[TensorSpec], dtype: torch.dtype) -> torch.Tensor:
        """Tensors below each other, read and converted a slab at a time."""
        matrix = large_pages.zeros(sum(spec.shape[0] for spec in specs), *specs[0].shape[1:], dtype=dtype)
        first = 0
        for spec in specs:
            for start, stop, values in self._checkpoint.slabs(spec, SLAB):
                matrix[first + start : first + stop] = values
            first += spec.shape[0]
            self._count(spec)
        return matrix

    def _count(self, spec: TensorSpec) -> None:
        if self._bar is not None:
            self._bar.update(spec.size)


@dataclass
class QuantizedWeights:
    """Parts of a decoder from an artifact, matrices packed for a kernel."""

    artifact: "Artifact"
    kernel: Kernel
    compute_dtype: str
    bar: tqdm | None = None

    @property
    def config(self) -> DecoderConfig:
        return self.artifact.decoder

    def vector(self, name: str) -> torch.Tensor:
        return self._counted(self.artifact.tensor(name)).float()

    def embedding(self, name: str) -> torch.Tensor:
        return self._counted(self.artifact.tensor(name))

    def linear(self, names: list[str]) -> Linear:
        """One product where all parts have the same bits and group size, and zero points or none; else one for each part."""
        parts = [self._counted(self.artifact.matrix(name)) for name in names]
        biases = [self.artifact.tensor(f"{name}.bias") for name in names if self.artifact.has(f"{name}.bias")]
        kinds = {
            (part.bits, part.group_size, part.zeros is None) if isinstance(part, QuantizedTensor) else None
            for part in parts
        }
        if len(kinds) == 1 and None not in kinds:
            return self._layer(parts, torch.cat(biases).float() if biases else None)
        return StackedLinear(
            tuple(self._layer([part], biases[i].float() if biases else None) for i, part in enumerate(parts))
        )

    def _layer(
        self, parts: list[QuantizedTensor | torch.Tensor], bias: torch.Tensor | None
    ) -> DenseLinear | QuantizedLinear:
        if isinstance(parts[0], torch.Tensor):
            return DenseLinear(parts[0].float(), bias)
        quantized = [part for part in parts if isinstance(part, QuantizedTensor)]
        return QuantizedLinear(self.kernel.pack(quantized, self.compute_dtype), bias)

    def _counted(self, part: T) -> T:
        if self.bar is not None:
            self.bar.update(part.in_features * part.out_features if isinstance(part, QuantizedTensor) else part.numel())
        return part
