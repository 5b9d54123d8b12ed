"""Tensors of a checkpoint that GPTQ, AWQ, AutoRound or compressed-tensors made, under the names that they had before.

A module's integers, scales and zero points lie in tensors of their own; here they are one tensor "MODULE.weight" again,
whose rows are dequantized as they are read, and whose integers can be had as they are.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from itrex_chat.checkpoints.integers import Integers, Packed, finite_scales, group_taken, unpacked
from itrex_chat.checkpoints.places import Place
from itrex_chat.checkpoints.storage import SafetensorsFiles
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.sources.quantized import AWQ, BITS, COMPRESSED, GPTQ, Method

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of 8 outputs lies in each 4 bits of a word, from the lowest
INTEGERS = {GPTQ: "qweight", AWQ: "qweight", COMPRESSED: "weight_packed"}
SCALES = {GPTQ: "scales", AWQ: "scales", COMPRESSED: "weight_scale"}
ZEROS = {GPTQ: "qzeros", AWQ: "qzeros", COMPRESSED: "weight_zero_point"}
GROUPS_OF = {GPTQ: "g_idx", COMPRESSED: "weight_g_idx"}
SHAPE = "weight_shape"  # of compressed-tensors


@dataclass(frozen=True)
class Module:
    """A module's integers of `bits`: a matrix [outputs, inputs] in `groups` of neighbouring inputs."""

    name: str
    bits: int
    outputs: int
    inputs: int
    groups: int

    @property
    def group_size(self) -> int:
        return self.inputs // self.groups


class PackedFiles:
    """`files`, whose integers lie as `method` says. Raises CheckpointError where their shapes do not fit together."""

    def __init__(self, files: SafetensorsFiles, method: Method):
        self._files, self._method = files, method
        self._modules: dict[str, Module] = {}
        self._kinds: dict[str, Packed] = {}
        ending = f".{INTEGERS[method.layout]}"
        modules = [name.removesuffix(ending) for name in files.shapes if name.endswith(ending)]
        own = {f"{module}.{part}" for module in modules for part in self._parts()}
        self.shapes = {name: shape for name, shape in files.shapes.items() if name not in own}
        for name in modules:
            if (weight := f"{name}.weight") in self.shapes:
                raise self._odd(name, weight)
            self._modules[weight] = module = self._module(name)
            self.shapes[weight] = (module.outputs, module.inputs)

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name in self._modules else self._files.dtype(name)

    stored = dtype

    def place(self, name: str) -> Place | None:
        return None if name in self._modules else self._files.place(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if name not in self._modules:
            return self._files.rows(name, start, stop)
        module = self._modules[name]
        found = self._integers(module, start, stop)
        if (order := self._order(module)) is None:
            return found.dequantize()
        wide = Integers(
            found.integers.reshape(-1, 1),
            found.scales[:, order].reshape(-1, 1),
            None if found.zeros is None else found.zeros[:, order].reshape(-1, 1),
            found.bits,
        )
        return wide.dequantize().reshape(found.integers.shape)

    def packed(self, name: str) -> Packed | None:
        """How a matrix is stored; None for one that is no integers. Raises CheckpointError for integers that cannot be taken
        as they are."""
        if name not in self._modules:
            return None
        if name not in self._kinds:
            self._kinds[name] = self._kind(self._modules[name])
        return self._kinds[name]

    def integers(self, name: str, start: int, stop: int) -> Integers:
        """The rows [start, stop) of a matrix that is `packed`, in its groups."""
        kind = self.packed(name)
        assert kind
        return self._integers(self._modules[name], start, stop).grouped(kind.group_size)

    def idle(self, name: str) -> bool:
        """AutoGPTQ gives every module a bias; one of zeros is none."""
        module = name.removesuffix(".bias")
        return (
            f"{module}.weight" in self._modules
            and name != module
            and not self.rows(name, 0, self.shapes[name][0]).any()
        )

    def description(self) -> str:
        """The method, with bits and groups of most matrices: "GPTQ INT4 G128"."""
        kinds = Counter((module.bits, module.group_size) for module in self._modules.values())
        if not kinds:
            return self._files.description()
        [((bits, size), _count)] = kinds.most_common(1)
        return f"{self._method.name} INT{bits} G{size}"

    def _parts(self) -> list[str]:
        layout = self._method.layout
        parts = [INTEGERS[layout], SCALES[layout], ZEROS[layout], GROUPS_OF.get(layout, "")]
        return [*filter(None, parts), *([SHAPE] if layout == COMPRESSED else [])]

    def _part(self, module: str, parts: dict[str, str]) -> str:
        """A tensor's name. Raises CheckpointError where it is not there or no matrix."""
        name = f"{module}.{parts[self._method.layout]}"
        if len(self._files.shapes.get(name, ())) != 2:
            raise CheckpointError(
                _(
                    "The quantized module {module} has no matrix {name}; the checkpoint is not complete.",
                    module=module,
                    name=name,
                )
            )
        return name

    def _module(self, name: str) -> Module:
        integers = self._part(name, INTEGERS)
        rows, columns = self._files.shapes[integers]
        groups, across = self._files.shapes[self._part(name, SCALES)]
        bits = self._method.bits_of(name)
        if self._method.layout == COMPRESSED:
            outputs, inputs = self._told_shape(name)
            bits = next((bits for bits in BITS if columns * 32 == inputs * bits), 0)
            groups, across, fits = across, groups, rows == outputs
        elif self._method.layout == AWQ:
            outputs, inputs, fits = columns * 32 // max(bits, 1), rows, bits == 4
        else:
            index = self._files.shapes.get(f"{name}.{GROUPS_OF[GPTQ]}")
            inputs, outputs = (index[0] if index else rows * 32 // max(bits, 1)), columns
            bits = next((bits for bits in BITS if rows * 32 == inputs * bits), 0)
            fits = True
        if not bits or not fits or across != outputs or not 0 < groups <= inputs or inputs % groups:
            raise self._odd(name, integers)
        found = Module(name, bits, outputs, inputs, groups)
        self._check_zeros(found)
        return found

    def _told_shape(self, name: str) -> tuple[int, int]:
        shape = f"{name}.{SHAPE}"
        told = self._files.shapes.get(shape)
        values = self._files.whole(shape, (torch.int32, torch.int64)).tolist() if told == (2,) else [0, 0]
        if min(values) < 1:
            raise self._odd(name, shape)
        return values[0], values[1]

    def _check_zeros(self, module: Module) -> None:
        name = f"{module.name}.{ZEROS[self._method.layout]}"
        found, words = self._files.shapes.get(name), -(-module.outputs * module.bits // 32)
        fitting = (words, module.groups) if self._method.layout == COMPRESSED else (module.groups, words)
        if found is None and self._method.layout != COMPRESSED:
            self._part(module.name, ZEROS)
        if found is not None and found != fitting:
            raise self._odd(module.name, name)

    def _kind(self, module: Module) -> Packed:
        if self._order(module) is not None:
            raise CheckpointError(
                _(
                    "{name} was quantized in an order of its inputs of its own (act-order, desc_act, a g_idx that is not sorted), "
                    "which the kernels do not follow; use a checkpoint without it, or quantize it anew: --set "
                    "quantization.integers new.",
                    name=module.name,
                )
            )
        size = group_taken(module.group_size)
        if size is None:
            raise CheckpointError(
                _(
                    "{name} has groups of {size} inputs; those of whole multiples of 32 can be taken as they are. Quantize "
                    "it anew: --set quantization.integers new.",
                    name=module.name,
                    size=module.group_size,
                )
            )
        zeros = self._zeros(module, 0, module.outputs)
        apart = zeros is not None and bool((zeros != 1 << (module.bits - 1)).any())
        if apart and module.bits != 4:
            raise CheckpointError(
                _(
                    "{name} has integers of 8 bits with zero points of their own, which the kernels do not read; quantize it "
                    "anew: --set quantization.integers new.",
                    name=module.name,
                )
            )
        return Packed(module.bits, size, "whole" if apart else "")

    def _integers(self, module: Module, start: int, stop: int) -> Integers:
        layout, bits = self._method.layout, module.bits
        name, scales = self._part(module.name, INTEGERS), self._part(module.name, SCALES)
        if layout == COMPRESSED:
            integers = unpacked(self._files.block(name, slice(start, stop), slice(None)), bits, 1)
            found = self._files.floats(scales, slice(start, stop), slice(None))
        else:
            found = self._files.floats(scales, slice(None), slice(start, stop)).t()
            if layout == GPTQ:
                integers = unpacked(self._files.block(name, slice(None), slice(start, stop)), bits, 0).t()
            else:
                first, last = _words(start, stop, bits)
                integers = _interleaved(self._files.block(name, slice(None), slice(first, last)))
                integers = integers[:, start - first * 8 : stop - first * 8].t()
        zeros = self._zeros(module, start, stop)
        return Integers(
            integers[:, : module.inputs].contiguous(),
            finite_scales(found, module.name).contiguous(),
            None if zeros is None else zeros.half().contiguous(),
            bits,
        )

    def _zeros(self, module: Module, start: int, stop: int) -> torch.Tensor | None:
        """uint8 [rows, groups]; None where the layout leaves them out."""
        layout, bits = self._method.layout, module.bits
        name, (first, last) = f"{module.name}.{ZEROS[layout]}", _words(start, stop, bits)
        if name not in self._files.shapes:
            return None
        per_word = 32 // bits
        if layout == COMPRESSED:
            zeros = unpacked(self._files.block(name, slice(first, last), slice(None)), bits, 0)
        else:
            words = self._files.block(name, slice(None), slice(first, last))
            zeros = (_interleaved(words) if layout == AWQ else unpacked(words, bits, 1)).t()
        zeros = zeros[start - first * per_word : stop - first * per_word]
        if self._method.zero_offset and bool((zeros == (1 << bits) - 1).any()):
            raise CheckpointError(
                _(
                    "{name} has a zero point that programs read differently, as 0 or as {most}: the layout stores them minus "
                    "one. Use a checkpoint in the format gptq_v2.",
                    name=module.name,
                    most=1 << bits,
                )
            )
        return zeros + self._method.zero_offset

    def _order(self, module: Module) -> torch.Tensor | None:
        """The group of each input, int64 [in], where they are not simply one behind the other."""
        name = f"{module.name}.{GROUPS_OF.get(self._method.layout, '')}"
        if name not in self._files.shapes:
            return None
        index = self._files.whole(name, (torch.int32, torch.int64)).long()
        if index.shape != (module.inputs,) or int(index.min()) < 0 or int(index.max()) >= module.groups:
            raise self._odd(module.name, name)
        return None if torch.equal(index, torch.arange(module.inputs) // module.group_size) else index

    def _odd(self, module: str, name: str) -> CheckpointError:
        shape = list(self._files.shapes.get(name, ()))
        return CheckpointError(
            _(
                "The quantized module {module} does not fit together: its tensor {name} has the shape {shape} or values that "
                "cannot be ({method}, {bits} bits).",
                module=module,
                name=name,
                shape=shape,
                method=self._method.name,
                bits=self._method.bits,
            )
        )


def _words(start: int, stop: int, bits: int) -> tuple[int, int]:
    """The words along a dimension that hold the integers [start, stop): the first, and the one behind the last."""
    return start * bits // 32, -(-stop * bits // 32)


def _interleaved(words: torch.Tensor) -> torch.Tensor:
    """AWQ's uint8 [rows, outputs] of int32 words [rows, outputs/8]."""
    found = torch.empty(*words.shape, 8, dtype=torch.uint8)
    for place, output in enumerate(AWQ_ORDER):
        found[..., output] = (words >> (4 * place)) & 15
    return found.flatten(1)
