"""What keys and values in fp16 and int8 give beside fp32: the speed of decoding behind a long text, and memory.

    python benchmarks/kv_formats.py [--shape qwen-7b-shape] [--context 4096] [--layers 32]

Random INT4 weights in the shape of a model, random keys and values; a token in each format in turn, in one process. What
bytes allow is the bytes of weights and cache that a token reads in fp32, divided by those in the other format.
"""

import itrex_chat  # noqa: F401, I001  # before torch: it says how torch's threads wait

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from measuring.dense import SHAPES
from measuring.random_weights import decoder_of

from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Decoder
from itrex_chat.foundation import machine
from itrex_chat.foundation.units import readable
from itrex_chat.settings.kv_cache import FORMATS


def filled(decoder: Decoder, cache_format: str, context: int, capacity: int) -> KVCache:
    """A cache that holds `context` tokens."""
    cache = replace(decoder, cache_format=cache_format).new_cache(capacity)
    cache.begin([capacity])
    cache.reserve(0, context)
    config, draw = decoder.config, torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, context, config.kv_heads, config.head_dim, generator=draw)
    for layer in range(config.layers):
        cache.write(layer, 0, 0, keys, values)
    cache.lengths[0] = context
    return cache


def measure(decoder: Decoder, caches: dict[str, KVCache], rounds: int) -> dict[str, list[float]]:
    """Seconds of decoding a token in each format; the first round does not count."""
    taken: dict[str, list[float]] = {name: [] for name in caches}
    for number in range(rounds + 1):
        for name in list(caches)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            decoder.decode([200 + number], caches[name])
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def report(decoder: Decoder, context: int, taken: dict[str, list[float]]) -> str:
    lines = [
        "| keys and values | memory | ms a token | beside fp32 | bytes allow | GB/s |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    weights = decoder.weight_bytes()
    base = taken["fp32"]
    sizes = {name: context * KVCache.bytes_per_token(decoder.config, name) for name in taken}
    for name, seconds in taken.items():
        gain = median(one / other for one, other in zip(base, seconds))
        allowed = (weights + sizes["fp32"]) / (weights + sizes[name])
        rate = (weights + sizes[name]) / median(seconds) / 1e9
        lines.append(
            f"| {name} | {readable(sizes[name])} | {1000 * median(seconds):.1f} | {gain:.2f} × | {allowed:.2f} × | {rate:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="qwen-7b-shape", choices=["small", *SHAPES])
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(machine.threads())
    decoder = decoder_of(arguments.shape, arguments.layers)
    capacity = arguments.context + arguments.rounds + 2
    caches = {name: filled(decoder, name, arguments.context, capacity) for name in FORMATS}
    print(
        f"{arguments.shape}, {decoder.config.layers} layers, {arguments.context} tokens, INT4 weights {readable(decoder.weight_bytes())}\n"
    )
    print(report(decoder, arguments.context, measure(decoder, caches, arguments.rounds)))


if __name__ == "__main__":
    main()
