"""Quantizing block by block, with the inputs that texts give each block.

The inputs of a block are what the blocks before it make of the texts, in the weights that they were quantized to. Within a
block it goes on like that: queries, keys and values are quantized before the inputs of the output matrix are computed, and
so on. In memory are one block's weights in float32, and the inputs of all tokens.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from tqdm import tqdm

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import EMBEDDING
from itrex_chat.calibration.inputs import NEEDS_ALL, Inputs, quantized
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.linear import DenseLinear
from itrex_chat.decoder.loading import block_linear_names, load_block
from itrex_chat.decoder.model import Decoder, rms_norm
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.stream import stored

TOGETHER = 8  # windows that go through a block at a time


class BlockWise:
    """The matrices of the blocks of a decoder, quantized by the inputs that windows of tokens give them.

    `number` is the next block, `inputs`, float32 [tokens, hidden], what goes into it: all that an interrupted quantization
    needs to go on (`go_on`).
    """

    def __init__(self, checkpoint: Checkpoint, treatments: Sequence[Treatment], windows: list[list[int]]):
        self._weights, self._windows = Floats(checkpoint), windows
        self._treatments = {treatment.name: treatment for treatment in treatments if treatment.bits}
        self._made: dict[str, dict[str, torch.Tensor]] = {}
        self.number, self.inputs = 0, torch.empty(0)

    def go_on(self, number: int, inputs: torch.Tensor) -> None:
        self.number, self.inputs = number, inputs

    def tensors(self, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
        """What the artifact stores of a matrix; to be asked for in the order of the blocks. Raises CheckpointError."""
        while treatment.name not in self._made:
            self._made = {}
            self._next_block(bar)
        return self._made.pop(treatment.name)

    @torch.inference_mode()
    def _next_block(self, bar: tqdm) -> None:
        config, number = self._weights.config, self.number
        x = self.inputs = self.inputs if number else self._weights.embedded(self._windows)
        block, eps = load_block(self._weights, number), config.norm_eps
        decoder = Decoder.of_one(config, number, block)
        qkv, output, gate_up, down = block_linear_names(config, number)

        self._quantize(
            qkv, block.qkv, (rms_norm(x[part], block.attention_norm, eps) for part, _lengths in self._parts()), bar
        )
        mixed = torch.empty(len(x), config.heads * config.head_dim)
        for part, lengths in self._parts():
            normed = rms_norm(x[part], block.attention_norm, eps)
            mixed[part] = decoder.mixed(0, block, normed, decoder.whole(lengths))
        self._quantize(output, block.output, (mixed[part] for part, _lengths in self._parts()), bar)
        for part, _lengths in self._parts():
            x[part] += _normed(block.output(mixed[part]), block.after_attention_norm, config)
        del mixed
        normed_parts = (rms_norm(x[part], block.mlp_norm, eps) for part, _lengths in self._parts())
        self._quantize(gate_up, block.mlp.gate_up, normed_parts, bar)
        inner = (block.mlp.inner(rms_norm(x[part], block.mlp_norm, eps)) for part, _lengths in self._parts())
        self._quantize(down, block.mlp.down, inner, bar)
        for part, _lengths in self._parts():
            y = block.mlp(rms_norm(x[part], block.mlp_norm, eps))
            x[part] += _normed(y, block.after_mlp_norm, config)
        self.number += 1

    def _parts(self) -> Iterator[tuple[slice, list[int]]]:
        """The tokens that go through a block at a time, and the lengths of their windows."""
        first = 0
        for start in range(0, len(self._windows), TOGETHER):
            lengths = [len(window) for window in self._windows[start : start + TOGETHER]]
            yield slice(first, first + sum(lengths)), lengths
            first += sum(lengths)

    def _quantize(self, names: list[str], linear: object, inputs: Iterable[torch.Tensor], bar: tqdm) -> None:
        """Quantize the matrices that share these inputs, and compute with what became of them from now on."""
        assert isinstance(linear, DenseLinear)
        found = [self._treatments.get(name) for name in names]
        if not (wanted := [treatment for treatment in found if treatment]):
            return
        seen = Inputs(linear.weight.shape[1], any(treatment.algorithm in NEEDS_ALL for treatment in wanted))
        for rows in inputs:
            seen.add(rows)
        if not torch.isfinite(seen.mean_squares).all():
            raise CheckpointError(
                _("With the calibration texts the inputs of {name} are not finite numbers.", name=names[0])
            )
        start = 0
        for name, treatment in zip(names, found):
            stop = start + self._weights.rows(name)
            if treatment:
                part = linear.weight[start:stop]
                integers, scales = quantized(part.clone(), treatment, seen)
                if treatment.calibrated:
                    self._made[treatment.name] = stored(treatment, integers, scales)
                    bar.update(self._weights.bytes_read(name))
                part.copy_(integers * scales.half().float().repeat_interleave(treatment.group_size, 1))
            start = stop


def _normed(y: torch.Tensor, weight: torch.Tensor | None, config: DecoderConfig) -> torch.Tensor:
    return y if weight is None else rms_norm(y, weight, config.norm_eps)


class Floats:
    """Parts of a decoder from a checkpoint, all in float32 and memory of their own."""

    def __init__(self, checkpoint: Checkpoint):
        self.config, self._checkpoint = checkpoint.decoder, checkpoint
        self._specs = {spec.name: spec for spec in checkpoint.specs()}

    def rows(self, name: str) -> int:
        return self._specs[f"{name}.weight"].shape[0]

    def bytes_read(self, name: str) -> int:
        return self._specs[f"{name}.weight"].size * self._checkpoint.dtype(f"{name}.weight").itemsize

    def vector(self, name: str) -> torch.Tensor:
        return self._checkpoint.tensor(self._specs[name]).float()

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
        weight = torch.cat([self.vector(f"{name}.weight") for name in names])
        biases = [self.vector(f"{name}.bias") for name in names if f"{name}.bias" in self._specs]
        return DenseLinear(weight, torch.cat(biases) if biases else None)
