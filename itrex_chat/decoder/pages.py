"""The memory of keys and values: pages of one pool, which sequences take and give back, and share where they begin alike."""

from functools import cache
from math import prod

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.native import large_pages

PAGE = 64  # positions; CACHE_PAGE of native.h
FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
LARGEST = {"fp16": 65504.0, "int8": 127.0}


class NoPages(Exception):
    """There is no page left in the pool."""


class Pages:
    """A pool of `count` pages of `PAGE` positions each, all layers and heads of keys; one that nobody uses is free.

    A page lies as native.h's `Cache` says. `kind` is how values are kept:
    "fp32", "fp16" (rounded to nearest even; beyond its range the largest
    value), or "int8" (rounded by the largest magnitude of a head and position / 127; keys come spread over their channels,
    `rotary.spread`).
    Memory of pages that were never used is not taken from the system.
    """

    def __init__(self, config: DecoderConfig, count: int, kind: str = "fp32"):
        self.config, self.count, self.kind = config, count, kind
        self.memory = large_pages.zeros(count, page_bytes(config, kind), dtype=torch.uint8)
        self._users = [0] * count
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A page for one user. Raises NoPages."""
        if not self._free:
            raise NoPages
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more user of a page."""
        self._users[page] += 1

    def users(self, page: int) -> int:
        return self._users[page]

    def release(self, page: int) -> None:
        """One user less."""
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    def copy(self, page: int) -> int:
        """A page with the same content, for one user. Raises NoPages."""
        new = self.take()
        self.memory[new] = self.memory[page]
        return new

    def write(self, layer: int, page: int, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keys and values, float32 [positions, kv_heads, head_dim] each, to the positions of a page from `first` on."""
        last = first + len(keys)
        of_keys, of_values, scales = self._parts()
        for new, kept, number in ((keys.permute(1, 2, 0), of_keys[page, layer, :, :, first:last], 0),
                                  (values.transpose(0, 1), of_values[page, layer, :, first:last], 1)):  # fmt: skip
            if self.kind == "int8":
                axis = 1 if number == 0 else 2
                scale = new.abs().amax(axis, keepdim=True) / 127
                scale[scale < 2.0**-120] = 0
                kept.copy_(torch.where((scale > 0) & scale.isfinite(), new / scale, 0).round())
                scales[page, layer, :, number, first:last] = scale.squeeze(axis)
            elif self.kind == "fp16":
                kept.copy_(torch.where(new.isfinite(), new.clamp(-LARGEST["fp16"], LARGEST["fp16"]), new))
            else:
                kept.copy_(new)

    def read(self, layer: int, pages: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """What some pages hold one behind the other: keys and values, float32 [kv_heads, positions, head_dim] each."""
        of_keys, of_values, scales = self._parts()
        keys, values = of_keys[pages, layer].transpose(2, 3).float(), of_values[pages, layer].float()
        if self.kind == "int8":
            keys, values = (
                part * scales[pages, layer, :, number, :, None] for number, part in enumerate((keys, values))
            )
        return tuple(part.transpose(0, 1).flatten(1, 2) for part in (keys, values))  # type: ignore[return-value]

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys [pages, layers, kv_heads, head_dim, PAGE], values [.., PAGE, head_dim], scales [.., 2, PAGE] of int8."""
        config, dtype = self.config, FORMATS[self.kind]
        heads = (self.count, config.layers, config.kv_heads)
        flat = self.memory.view(*heads, -1)
        half = PAGE * config.head_dim * dtype.itemsize
        keys, values = (flat[..., at : at + half].view(dtype) for at in (0, half))
        return (
            keys.unflatten(-1, (config.head_dim, PAGE)),
            values.unflatten(-1, (PAGE, config.head_dim)),
            flat[..., 2 * half :].view(torch.float32).unflatten(-1, (2, -1)) if self.kind == "int8" else keys,
        )


@cache
def page_bytes(config: DecoderConfig, kind: str = "fp32") -> int:
    """Bytes of a page."""
    values = 2 * config.head_dim * FORMATS[kind].itemsize + (8 if kind == "int8" else 0)
    return prod((config.layers, config.kv_heads, PAGE, values))


def pages_for(tokens: int) -> int:
    """Pages that so many tokens of a sequence take."""
    return -(-tokens // PAGE)
