"""Random schedules: requests come, are cancelled, share beginnings, wait for memory, are drafted for; each answer is held
against the one that its prompt gets alone.

    python tests/schedules.py FOLDER [COUNT [FIRST]] [--sanitized]    with INT4 and FP32 of two tiny models
"""

import argparse
import os
import random
import sys
from pathlib import Path

import fuzzing

from itrex_chat import native
from itrex_chat.decoder.model import Decoder
from itrex_chat.decoder.pages import pages_for
from itrex_chat.foundation.errors import Busy
from itrex_chat.generation.loop import generate
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.request import Request
from itrex_chat.generation.scheduler import Scheduler, Ticket
from itrex_chat.settings.generation import GenerationConfig

Tokenizer = object


class Alone:
    """The answers that prompts get alone, each made once."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer):
        self._decoder, self._tokenizer = decoder, tokenizer
        self._known: dict[tuple[tuple[int, ...], GenerationConfig], list[int]] = {}

    def of(self, prompt: list[int], config: GenerationConfig) -> list[int]:
        key = tuple(prompt), config
        if key not in self._known:
            *_pieces, response = generate(self._decoder, self._tokenizer, prompt, config)
            self._known[key] = response.token_ids
        return self._known[key]


def prompts(count: int, seed: int) -> list[list[int]]:
    """Some that have nothing in common, some that begin alike for part of a page, a page, or several."""
    draw = random.Random(seed)
    long = [draw.randrange(3, 600) for _token in range(200)]
    return [
        long[: draw.choice((0, 0, 1, 20, 63, 64, 65, 130, 200))]
        + [draw.randrange(3, 600) for _token in range(draw.randint(1, 60))]
        for _prompt in range(count)
    ]


def run(number: int, decoder: Decoder, tokenizer: Tokenizer, alone: Alone, texts: list[list[int]]) -> str:
    """One schedule, determined by its number. Raises AssertionError."""
    draw = random.Random(number)
    most = max(map(len, texts)) + 24
    pages = decoder.new_pages(pages_for(most) * draw.randint(1, 4))
    model = DraftModel.beside("itself", decoder, decoder) if draw.random() < 0.3 else None
    scheduler = Scheduler(decoder, tokenizer, pages, draw.choice((1, 2, 3, 8, 20)), draw.choice((2, 30)))
    tickets: list[Ticket] = []
    cancelled: set[int] = set()
    left = draw.randint(1, 14)
    while left or scheduler.waiting or scheduler.going:
        if left and draw.random() < 0.4:
            config = GenerationConfig(
                max_new_tokens=draw.randint(1, 24),
                repetition_penalty=draw.choice((0.6, 1.0)),
                do_sample=draw.random() < 0.3,
                temperature=1.3,
                seed=draw.randrange(3),
                prompt_lookup=draw.random() < 0.3,
            )
            try:
                tickets.append(scheduler.add(Request(draw.choice(texts), config), model))
                left -= 1
            except Busy:
                assert scheduler.waiting
        if tickets and draw.random() < 0.05:
            which = draw.randrange(len(tickets))
            if not tickets[which].done:
                scheduler.cancel(tickets[which])
                cancelled.add(which)
        scheduler.advance()
    for which, ticket in enumerate(tickets):
        assert ticket.response, ticket.error
        expected = alone.of(ticket.request.prompt, ticket.request.config)
        if which in cancelled:
            assert ticket.response.finish_reason == "cancelled"
            expected = expected[: len(ticket.response.token_ids)]
        assert ticket.response.token_ids == expected, f"schedule {number}, request {which}"
        assert "".join(ticket.taken_pieces()) == ticket.response.text
    scheduler.close()
    assert pages.free == pages.count, f"schedule {number}: {pages.count - pages.free} pages did not come back"
    return f"{len(tickets)} requests"


def main(folder: Path, count: int, first: int) -> None:
    import tiny_models

    from itrex_chat import sources
    from itrex_chat.artifacts import obtain
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.checkpoints import open_checkpoint
    from itrex_chat.engines.native.weights import load_dense, load_quantized
    from itrex_chat.kernels import KERNELS
    from itrex_chat.settings import recipe as recipes

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = None
    for family in ("qwen2", "qwen"):
        model = folder / family
        if not model.exists():
            tiny_models.qwen(model) if family == "qwen" else tiny_models.standard(model, family)
        tokenizer = tokenizer or load_tokenizer(folder / "qwen2", "qwen2")
        artifact = obtain(recipes.load(str(model)), folder / "cache").artifact
        for name, decoder in (
            ("INT4", load_quantized(artifact, KERNELS["native"], "int8")),
            ("FP32", load_dense(open_checkpoint(sources.local(model)), "fp32")),
        ):
            alone, texts = Alone(decoder, tokenizer), prompts(12, 1)
            for number in range(first, first + count):
                run(number, decoder, tokenizer, alone, texts)
            print(f"{family} {name}: {count} schedules from {first} on", flush=True)


def sanitized() -> None:
    """Go on with kernels that have sanitizers, in this process begun anew."""
    library = fuzzing.sanitized_library()
    if "LD_PRELOAD" not in os.environ:
        environment = os.environ | fuzzing.ENVIRONMENT | {"LD_PRELOAD": " ".join(fuzzing.preloaded())}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    del os.environ["LD_PRELOAD"]  # not for the tokenizer's process
    native.__file__ = str(library.with_name("__init__.py"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where tiny models are, or are made")
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--sanitized", action="store_true")
    given = parser.parse_args()
    if given.sanitized:
        sanitized()
    main(given.folder, given.count, given.first)
