"""Quantizing block by block, with the inputs that texts give each block.

The inputs of a block are what the blocks before it make of the texts, in the weights that they were quantized to. Within a
block it goes on like that: queries, keys and values are quantized before the inputs of the output matrix are computed, and
so on. For GPTQ and AutoRound the texts go through the blocks as they are, too: what they have become there is what quantized weights are to
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

from itrex_chat.architecture.layout import layer
from itrex_chat.calibration.folding import Before, Made, Norm, Rows
from itrex_chat.calibration.inputs import FOLLOWING, NEEDS_ALL, SOME, Inputs, Seen, quantized
from itrex_chat.calibration.passing import Passing
from itrex_chat.calibration.rounding import Learned, Rounded, Windows, learn
from itrex_chat.calibration.weights import Floats
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.decoder.loading import block_linear_names, load_block
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization import awq, products
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.stream import stored

TOGETHER = 8  # windows that go through a block at a time


class BlockWise:
    """The matrices of the blocks of a decoder, quantized by the inputs that windows of tokens give them. `iterations` are how many
    steps learning takes for each block (AutoRound).

    `number` is the next block, `inputs`, float32 [tokens, hidden], what goes into it, `exact` what would where nothing was
    quantized, if anything `follows` that: all that an interrupted quantization needs to go on (`go_on`).
    """

    def __init__(
        self, checkpoint: Checkpoint, treatments: Sequence[Treatment], windows: list[list[int]], iterations: int = 1
    ):
        self._weights, self._windows = Floats(checkpoint), windows
        self._iterations = iterations
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

    @torch.no_grad()
    @products.fast()
    def _next_block(self, bar: tqdm) -> None:
        config, number = self._weights.config, self.number
        if not number:
            self.inputs = self._weights.embedded(self._windows)
            self.exact = self.inputs.clone() if self.follows else None
        block = load_block(self._weights, number)
        here = Passing(self.inputs, block, config, number)
        there = None if self.exact is None else Passing(self.exact, copy.deepcopy(block), config, number)
        names = block_linear_names(config, number)
        if there and any(self._learned(name) for linear in names for name in linear):
            self._learn(names, here, there, bar)
            self.number += 1
            return
        qkv, output, gate_up, down = names
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

    def _learned(self, name: str) -> bool:
        return name in self._treatments and self._treatments[name].algorithm == "autoround"

    def _learn(self, names: list[list[str]], here: Passing, there: Passing, bar: tqdm) -> None:
        """Quantize all matrices of a block at once, by what comes of its inputs."""
        linears, learned, total = here.block.linears(), list[Learned](), 0
        for module, linear in zip(names, linears):
            parts = list[Rounded | torch.Tensor]()
            for name, weight in self._each(module, linear):
                if self._learned(name):
                    parts.append(Rounded(weight, self._treatments[name]))
                    total += self._weights.bytes_read(name)
                else:
                    if treatment := self._treatments.get(name):
                        self._keep(
                            treatment,
                            weight,
                            *quantize_rows(weight.clone(), treatment.weight_dtype, treatment.group_size),
                        )
                    parts.append(weight)
            learned.append(Learned(parts, getattr(linear, "bias", None), linear.out_features))
        for part, lengths in self._parts():
            there.whole(part, lengths)
        windows = Windows(here.x, there.x, [where for part, lengths in self._parts() for where in _cut(part, lengths)])
        each = total // self._iterations
        learn(
            here.block, learned, windows, self._weights.config, self.number, self._iterations, lambda: bar.update(each)
        )
        bar.update(total - each * self._iterations)
        for module, linear, found in zip(names, linears, learned):
            for (name, weight), rounded in zip(self._each(module, linear), found.parts):
                if isinstance(rounded, Rounded):
                    self._keep(self._treatments[name], weight, *rounded.found())
        for part, lengths in self._parts():
            here.whole(part, lengths)

    def _each(self, names: list[str], linear: object) -> Iterator[tuple[str, torch.Tensor]]:
        """The matrices that are one, float32 [rows, in] each, by name."""
        assert isinstance(linear, DenseLinear)
        return zip(names, linear.weight.split([self._weights.rows(name) for name in names]))

    def _keep(self, treatment: Treatment, part: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor) -> None:
        """Compute with what became of a matrix, and keep it for the artifact, whose writer makes what is not calibrated."""
        if treatment.calibrated:
            self._made[treatment.name] = stored(treatment, integers, scales)
        part.copy_(integers * scales.half().float().repeat_interleave(treatment.group_size, 1))

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
        if there:
            there.forget()

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
        lacking = None if nearer is None else nearer.split([self._weights.rows(name) for name in names])
        for number, (name, part) in enumerate(self._each(names, linear)):
            if treatment := found[number]:
                wished = part + lacking[number] if lacking and treatment.calibrated else part.clone()
                self._keep(treatment, part, *quantized(wished, treatment, seen))
                if treatment.calibrated:
                    bar.update(self._weights.bytes_read(name))


def _cut(part: slice, lengths: list[int]) -> Iterator[slice]:
    start = part.start
    for length in lengths:
        yield slice(start, start + length)
        start += length


def _product(linear: object, x: torch.Tensor) -> torch.Tensor:
    """The product with a matrix, without what it adds."""
    assert isinstance(linear, DenseLinear)
    return x @ linear.weight.t()
