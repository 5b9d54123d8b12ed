"""Quantizing block by block, with the inputs that texts give each block.

The inputs of a block are what the blocks before it make of the texts, in the weights that they were quantized to. Within a
block it goes on like that: queries, keys and values are quantized before the inputs of the output matrix are computed, and
so on. For GPTQ the texts go through the blocks as they are, too: what they have become there is what quantized weights are to
give. Where inputs are divided by factors (AWQ), what is before them is changed first: a norm, or rows of a matrix that was
quantized already. In memory are one block's weights in float32, and the inputs of all tokens.
"""

import collections
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from tqdm import tqdm

from itrex_chat.architecture.layout import EMBEDDING, layer
from itrex_chat.calibration.folding import Before, Made, Norm, Rows
from itrex_chat.calibration.inputs import FOLLOWING, NEEDS_ALL, SOME, Inputs, Seen, quantized
from itrex_chat.calibration.passing import Passing
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.decoder.loading import block_linear_names, load_block
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization import awq
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.stream import stored

TOGETHER = 8  # windows that go through a block at a time


class BlockWise:
    """The matrices of the blocks of a decoder, quantized by the inputs that windows of tokens give them.

    `number` is the next block, `inputs`, float32 [tokens, hidden], what goes into it, `exact` what would where nothing was
    quantized, if anything `follows` that: all that an interrupted quantization needs to go on (`go_on`).
    """

    def __init__(self, checkpoint: Checkpoint, treatments: Sequence[Treatment], windows: list[list[int]]):
        self._weights, self._windows = _Weights(checkpoint), windows
        self._treatments = {
            treatment.name: treatment for treatment in treatments if treatment.bits or treatment.calibrated
        }
        self._made: Made = {}
        self.follows = any(treatment.algorithm in FOLLOWING for treatment in treatments)
        self.number, self.inputs = 0, torch.empty(0)
        self.exact: torch.Tensor | None = None

    def go_on(self, number: int, inputs: torch.Tensor, exact: torch.Tensor | None) -> None:
        self.number, self.inputs, self.exact = number, inputs, exact

    def tensors(self, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
        """What the artifact stores of a matrix or a vector; to be asked for in the order of the blocks. Raises CheckpointError."""
        while treatment.name not in self._made:
            self._made = {}
            self._next_block(bar)
        return self._made.pop(treatment.name)

    @torch.inference_mode()
    def _next_block(self, bar: tqdm) -> None:
        config, number = self._weights.config, self.number
        if not number:
            self.inputs = self._weights.embedded(self._windows)
            self.exact = self.inputs.clone() if self.follows else None
        block = load_block(self._weights, number)
        here = Passing(self.inputs, block, config, number)
        there = None if self.exact is None else Passing(self.exact, copy.deepcopy(block), config, number)
        qkv, output, gate_up, down = block_linear_names(config, number)

        norm = Norm(layer(number) + "input_layernorm.weight", block.attention_norm)
        self._quantize(qkv, block.qkv, self._normed(Passing.attention_inputs, here, there), norm, bar)
        mixed = torch.empty(len(here.x), config.heads * config.head_dim)
        for part, lengths in self._parts():
            mixed[part] = here.mixed(part, lengths)
        values = self._rows(qkv, block.qkv, (config.heads + config.kv_heads) * config.head_dim, config.head_dim)
        values = dataclasses.replace(values, times=config.heads // config.kv_heads) if values else None
        self._quantize(output, block.output, self._mixed(mixed, here, there), values, bar, mixed)
        for part, _lengths in self._parts():
            here.attended(part, mixed[part])
        del mixed
        norm = Norm(layer(number) + "post_attention_layernorm.weight", block.mlp_norm)
        self._quantize(gate_up, block.mlp.gate_up, self._normed(Passing.mlp_inputs, here, there), norm, bar)
        width = block.mlp.gate_up.out_features // 2
        rows = self._rows(gate_up, block.mlp.gate_up, width, width)
        self._quantize(down, block.mlp.down, self._inner(here, there), rows, bar)
        for part, _lengths in self._parts():
            here.finished(part, here.inner(part))
        self._vectors(bar)
        self.number += 1

    def _normed(self, inputs: Callable, here: Passing, there: Passing | None) -> Iterator[Seen]:
        for part, _lengths in self._parts():
            rows = inputs(here, part)
            yield Seen(rows, inputs(there, part).sub_(rows) if there else None)

    def _mixed(self, mixed: torch.Tensor, here: Passing, there: Passing | None) -> Iterator[Seen]:
        for part, lengths in self._parts():
            lacking = None
            if there:
                other = there.mixed(part, lengths)
                lacking = _product(here.block.output, other - mixed[part])
                if there.block.after_attention_norm is None:
                    lacking += there.x[part] - here.x[part]
                there.attended(part, other)
            yield Seen(mixed[part], outputs=lacking)

    def _inner(self, here: Passing, there: Passing | None) -> Iterator[Seen]:
        for part, _lengths in self._parts():
            rows, lacking = here.inner(part), None
            if there:
                other = there.inner(part)
                lacking = _product(here.block.mlp.down, other - rows)
                if there.block.after_mlp_norm is None:
                    lacking += there.x[part] - here.x[part]
                there.finished(part, other)
            yield Seen(rows, outputs=lacking)

    def _parts(self) -> Iterator[tuple[slice, list[int]]]:
        """The tokens that go through a block at a time, and the lengths of their windows."""
        first = 0
        for start in range(0, len(self._windows), TOGETHER):
            lengths = [len(window) for window in self._windows[start : start + TOGETHER]]
            yield slice(first, first + sum(lengths)), lengths
            first += sum(lengths)

    def _rows(self, names: list[str], linear: object, first: int, width: int) -> Rows | None:
        """The rows from `first` on of matrices that were quantized; None where one of them was not."""
        assert isinstance(linear, DenseLinear)
        if not all(name in self._made for name in names):
            return None
        stops = itertools.accumulate(map(self._weights.rows, names))
        return Rows(dict(zip(names, stops)), linear, first, width)

    def _vectors(self, bar: tqdm) -> None:
        """Norms and biases of the block that might have been changed and were not."""
        for name, treatment in self._treatments.items():
            if treatment.spec.block == self.number and not treatment.bits:
                if name not in self._made:
                    self._made[name] = {name: self._weights.vector(name)}
                bar.update(self._weights.bytes_of(name))

    def _quantize(
        self,
        names: list[str],
        linear: object,
        inputs: Iterable[Seen],
        before: Before | None,
        bar: tqdm,
        held: torch.Tensor | None = None,
    ) -> None:
        """Quantize the matrices that share these inputs, and compute with what became of them from now on. `before` can take
        a division of the inputs, `held` are these where they are not computed again."""
        assert isinstance(linear, DenseLinear)
        found = [self._treatments.get(name) for name in names]
        if not (wanted := [treatment for treatment in found if treatment]):
            if self.exact is not None:
                collections.deque(inputs, 0)  # which takes these further
            return
        algorithms = {treatment.algorithm for treatment in wanted}
        every = max(1, len(self.inputs) // SOME) if "awq" in algorithms else 0
        seen = Inputs(linear.weight.shape[1], not algorithms.isdisjoint(NEEDS_ALL), every)
        for some in inputs:
            seen.add(some)
        if not torch.isfinite(seen.mean_squares).all():
            raise CheckpointError(
                _("With the calibration texts the inputs of {name} are not finite numbers.", name=names[0])
            )
        if before and len(wanted) == len(found) and algorithms == {"awq"}:
            # of one width, so that they have groups of one size
            kind, group_size = wanted[0].weight_dtype, wanted[0].group_size
            factors = awq.factors(
                linear.weight, kind, group_size, before.evened(seen.magnitudes), seen.mean_squares, seen.some
            )
            before.divide(factors, self._made)
            linear.weight.mul_(factors)
            seen.divide(factors)
            if held is not None:
                held.div_(factors)
        nearer = seen.nearer(linear.weight) if "gptq" in algorithms else None
        start = 0
        for name, treatment in zip(names, found):
            stop = start + self._weights.rows(name)
            if treatment:
                part = linear.weight[start:stop]
                wished = part.clone() if nearer is None else part + nearer[start:stop]
                integers, scales = quantized(wished, treatment, seen)
                self._made[treatment.name] = stored(treatment, integers, scales)
                part.copy_(integers * scales.half().float().repeat_interleave(treatment.group_size, 1))
                bar.update(self._weights.bytes_read(name))
            start = stop


def _product(linear: object, x: torch.Tensor) -> torch.Tensor:
    """The product with a matrix, without what it adds."""
    assert isinstance(linear, DenseLinear)
    return x @ linear.weight.t()


class _Weights:
    """Parts of a decoder from a checkpoint, all in float32 and memory of their own."""

    def __init__(self, checkpoint: Checkpoint):
        self.config, self._checkpoint = checkpoint.decoder, checkpoint
        self._specs = {spec.name: spec for spec in checkpoint.specs()}

    def rows(self, name: str) -> int:
        return self._specs[f"{name}.weight"].shape[0]

    def bytes_read(self, name: str) -> int:
        return self.bytes_of(f"{name}.weight")

    def bytes_of(self, name: str) -> int:
        return self._specs[name].size * self._checkpoint.dtype(name).itemsize

    def vector(self, name: str) -> torch.Tensor:
        return self._checkpoint.tensor(self._specs[name]).to(torch.float32, copy=True)

    embedding = vector

    def embedded(self, windows: list[list[int]]) -> torch.Tensor:
        """The embeddings of all tokens, float32 [tokens, hidden]."""
        ids = torch.tensor([token for window in windows for token in window])
        found = torch.empty(len(ids), self.config.hidden_size)
        for start, stop, values in self._checkpoint.slabs(self._specs[EMBEDDING], 1 << 22):
            here = (ids >= start) & (ids < stop)
            found[here] = values[ids[here] - start].float()
        return found

    def linear(self, names: list[str]) -> DenseLinear:
        weight = torch.cat([self._checkpoint.tensor(self._specs[f"{name}.weight"]).float() for name in names])
        biases = [self.vector(f"{name}.bias") for name in names if f"{name}.bias" in self._specs]
        return DenseLinear(weight, torch.cat(biases) if biases else None)
