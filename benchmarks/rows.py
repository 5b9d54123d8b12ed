"""What a pass over several tokens gives: tokens per second by the rows of a pass, each the next token of another sequence.

    python benchmarks/rows.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --variants int4 fp32
    python benchmarks/rows.py --shape chatglm3-6b-shape     random INT4 weights

Passes of all numbers of rows in turn, behind a short text in each sequence; medians, and how many times the tokens per second
of one row. More rows than a pass takes so that each gets the logits that it gets alone go in several.
"""

import itrex_chat  # noqa: F401, I001  # before torch: it says how torch's threads wait

import argparse
import gc
import sys
import time
from statistics import median

import torch
from measuring.dense import SHAPES
from measuring.random_weights import decoder_of

from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.native import STEP_ROWS
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes

TEXT = list(range(100, 132))


def measure(decoder: Decoder, counts: list[int], rounds: int) -> dict[int, float]:
    """Median seconds of decoding one token in each of so many sequences."""
    most = STEP_ROWS if decoder.cuts_anywhere else decoder.independent_tokens
    caches = {count: decoder.new_cache(len(TEXT) + rounds + 1, count) for count in counts}
    for count, cache in caches.items():
        cache.begin([len(TEXT) + rounds + 1] * count)
        for row in range(count):
            decoder.read([Chunk(row, TEXT)], cache)
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds + 1):
        for count in counts[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            for first in range(0, count, most):
                rows = range(first, min(first + most, count))
                decoder.read([Chunk(row, [200 + row]) for row in rows], caches[count])
            if number:
                taken[count].append(time.perf_counter() - started)
    return {count: median(seconds) for count, seconds in taken.items()}


def report(variant: str, seconds: dict[int, float]) -> str:
    one = min(seconds)
    lines = [f"## {variant}", "", "| rows | ms | tokens/s | beside the first |", "|--:|--:|--:|--:|"]
    for count, taken in seconds.items():
        gain = count * seconds[one] / (one * taken)
        lines.append(f"| {count} | {1000 * taken:.1f} | {count / taken:.1f} | {gain:.2f} × |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=recipes.EMBEDDED, help="a recipe, a folder or a .gguf file")
    parser.add_argument("--variants", nargs="+", default=["int4"])
    parser.add_argument(
        "--shape", choices=SHAPES, help="random INT4 weights in the shape of a model, instead of --model"
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.shape:
        torch.set_num_threads(machine.threads())
        print(report(arguments.shape, measure(decoder_of(arguments.shape), arguments.rows, arguments.rounds)))
        return 0
    try:
        for variant in arguments.variants:
            chatbot = load_chatbot(recipes.load(arguments.model), variant)
            print(report(variant.upper(), measure(chatbot.decoder, arguments.rows, arguments.rounds)), flush=True)
            del chatbot
            gc.collect()
    except ItrexChatError as error:
        print(f"rows: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
