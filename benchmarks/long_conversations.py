"""Many long conversations over one pool of keys and values: how many end, how many are told why not, and what memory they take.

    python benchmarks/long_conversations.py [--conversations 200] [--memory 2] [--format fp32] [--shape small]

Random weights in the shape of a model, in INT4. Each conversation has a thread of its own, which asks turn after turn with all
that was said before, until its turns are over or it is told that it has become too long. Some are longer than the whole
pool, in larger turns. Prints the most pages that were in use, the growth of the process's memory beside the pool's bytes, and the sentences.
"""

import itrex_chat  # noqa: F401, I001  # before torch: it says how torch's threads wait

import argparse
import random
import resource
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from measuring.dense import SHAPES
from measuring.random_weights import decoder_of

from dataclasses import replace
from itrex_chat.decoder.pages import PAGE, page_bytes
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import Busy, GenerationError
from itrex_chat.foundation.units import readable
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.scheduler import Scheduler
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.kv_cache import FORMATS

PAUSE = 0.2  # seconds between looks at the memory, and before somebody who was turned away asks again


class Words:
    """A tokenizer whose text is numbers, and that ends no answer."""

    stop_ids = frozenset[int]()
    strips_newline = False

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Conversations:
    """`lengths`: how many tokens each one comes to, prompts and answers."""

    def __init__(self, scheduler: Scheduler, lengths: list[int], turn: int, answer: int):
        self._scheduler, self._lengths, self._turn, self._answer = scheduler, lengths, turn, answer
        self.ended, self.turns, self.cached, self.read = 0, 0, 0, 0
        self.told: Counter[str] = Counter()
        self._lock = threading.Lock()

    def hold(self, number: int) -> None:
        """One conversation, to its end."""
        draw, said = random.Random(number), list[int]()
        while len(said) < self._lengths[number]:
            turn = max(self._turn, self._lengths[number] // 8)
            said += [draw.randrange(10, 4000) for _token in range(turn)]
            try:
                response = self._answered(said)
            except GenerationError as error:
                with self._lock:
                    self.told[str(error)] += 1
                return
            said += response.token_ids
            with self._lock:
                self.turns += 1
                self.cached += response.cached_tokens
                self.read += response.prompt_tokens
        with self._lock:
            self.ended += 1

    def _answered(self, prompt: list[int]) -> Response:
        while True:
            try:
                ticket = self._scheduler.add(Request(prompt, GenerationConfig(max_new_tokens=self._answer)))
                *_pieces, response = self._scheduler.stream(ticket)
                assert isinstance(response, Response)
                return response
            except Busy:
                time.sleep(PAUSE)


def resident() -> int:
    """Bytes of memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="small", choices=["small", *SHAPES])
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--memory", type=float, default=2.0, help="GB of keys and values")
    parser.add_argument("--format", default="fp32", choices=FORMATS)
    parser.add_argument("--tokens", type=int, nargs=2, default=(200, 400), help="a conversation's tokens, from and to")
    parser.add_argument("--too-long", type=int, default=2, help="conversations that the pool cannot hold")
    parser.add_argument("--turn", type=int, default=96, help="tokens that are asked in a turn")
    parser.add_argument("--answer", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(machine.threads())
    decoder = replace(decoder_of(arguments.shape), cache_format=arguments.format)
    count = int(arguments.memory * 1e9) // page_bytes(decoder.config, arguments.format)
    draw = random.Random(0)
    lengths = [draw.randint(*arguments.tokens) for _each in range(arguments.conversations)]
    lengths[: arguments.too_long] = [2 * count * PAGE] * arguments.too_long
    warmed = Scheduler(decoder, Words(), decoder.new_pages(32))
    for _piece in warmed.stream(warmed.add(Request(list(range(10, 1500)), GenerationConfig(max_new_tokens=8)))):
        pass  # so that what passes take is there before
    scheduler = Scheduler(decoder, Words(), decoder.new_pages(count))
    conversations = Conversations(scheduler, lengths, arguments.turn, arguments.answer)
    threads = [threading.Thread(target=conversations.hold, args=(number,)) for number in range(arguments.conversations)]
    before, most, used, began = resident(), 0, 0, time.perf_counter()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most, used = max(most, resident()), max(used, count - scheduler.pages.free)
        time.sleep(PAUSE)
    seconds, pool = time.perf_counter() - began, scheduler.pages.memory.nbytes
    finite, endless = sum(lengths[arguments.too_long :]), arguments.too_long
    print(
        f"{len(lengths)} conversations, {finite:,} tokens and {endless} without end, {seconds:.0f} s, in {arguments.format}"
    )
    known = conversations.cached / max(1, conversations.read)
    print(f"  {conversations.ended} ended, {conversations.turns} turns; {known:.0%} of their prompts were known")
    for sentence, times in conversations.told.items():
        print(f"  {times} were told: {sentence}")
    print(f"  pool: {count} pages, {readable(pool)}, {count * PAGE:,} tokens; at most {used} pages were in use")
    print(f"  memory of the process grew by {readable(most - before)}")
    scheduler.close()
    print(f"  pages free at the end: {scheduler.pages.free} of {count}")


if __name__ == "__main__":
    main()
