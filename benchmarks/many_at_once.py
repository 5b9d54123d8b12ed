"""Many conversations at once, through the scheduler: what it gives, beside one alone.

    python benchmarks/many_at_once.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf [--counts 1 4 16] [--variant int4]

Prints the tokens per second of so many answers at a time; the seconds to the first token of a conversation's next turn,
beside those of reading all of it; how much of their speed running answers keep while a long prompt is read, and how much longer that
takes then. Medians of `--rounds`, in turn.
"""

import argparse
import random
import sys
import time
from statistics import median

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.decoder.model import Decoder
from itrex_chat.decoder.pages import Pages, pages_for
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.scheduler import Scheduler, Ticket
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

ANSWER = 48  # tokens


class Serving:
    def __init__(self, decoder: Decoder, tokenizer: AnswerTokenizer, tokens: int):
        self._decoder, self._tokenizer, self._tokens = decoder, tokenizer, tokens
        self._draw = random.Random(0)

    def scheduler(self) -> Scheduler:
        return Scheduler(self._decoder, self._tokenizer, Pages(self._decoder.config, pages_for(self._tokens) + 64))

    def text(self, count: int) -> list[int]:
        return [self._draw.randrange(100, 10_000) for _token in range(count)]

    def request(self, prompt: list[int], tokens: int = ANSWER) -> Request:
        stops = dict.fromkeys(self._tokenizer.stop_ids, -100.0)  # so that all answers are of one length
        return Request(prompt, GenerationConfig(max_new_tokens=tokens, draft="none"), logit_bias=stops)

    def throughput(self, count: int) -> float:
        """Tokens per second of so many answers, once all of them decode."""
        scheduler = self.scheduler()
        tickets = [scheduler.add(self.request(self.text(16))) for _each in range(count)]
        while any(ticket.sequence is None or not ticket.sequence.ids for ticket in tickets):
            scheduler.advance()
        before, began = _tokens(tickets), time.perf_counter()
        while not any(ticket.done for ticket in tickets):
            scheduler.advance()
        return (_tokens(tickets) - before) / (time.perf_counter() - began)

    def turns(self, length: int) -> tuple[float, float]:
        """Seconds to the first token of a conversation of so many tokens, and of its next turn of 16 more."""
        scheduler, conversation = self.scheduler(), self.text(length)
        first = _finished(scheduler, scheduler.add(self.request(conversation, 8)))
        conversation += [*first.token_ids, *self.text(16)]
        return first.ttft, _finished(scheduler, scheduler.add(self.request(conversation, 8))).ttft

    def beside(self, length: int, answers: int = 4) -> tuple[float, float]:
        """What running answers keep of their speed while a prompt of so many tokens is read, and how many times as long
        that takes as alone."""
        scheduler = self.scheduler()
        alone = _finished(scheduler, scheduler.add(self.request(self.text(length), 1))).ttft
        tickets = [scheduler.add(self.request(self.text(16), 1500)) for _each in range(answers)]
        while any(ticket.sequence is None or not ticket.sequence.ids for ticket in tickets):
            scheduler.advance()
        began, before = time.perf_counter(), _tokens(tickets)
        for _pass in range(16):
            scheduler.advance()
        quiet = (_tokens(tickets) - before) / (time.perf_counter() - began)
        began, before = time.perf_counter(), _tokens(tickets)
        long = scheduler.add(self.request(self.text(length), 1))
        while not long.done:
            scheduler.advance()
        seconds = time.perf_counter() - began
        kept = (_tokens(tickets) - before) / seconds / quiet
        scheduler.close()
        return kept, seconds / alone


def _tokens(tickets: list[Ticket]) -> int:
    return sum(len(ticket.sequence.ids) for ticket in tickets if ticket.sequence)


def _finished(scheduler: Scheduler, ticket: Ticket) -> Response:
    while not ticket.done:
        scheduler.advance()
    assert ticket.response
    return ticket.response


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=recipes.EMBEDDED, help="a recipe, a folder or a .gguf file")
    parser.add_argument("--variant", default="int4")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--conversation", type=int, default=2000, help="tokens before the next turn")
    parser.add_argument("--prompt", type=int, default=4000, help="tokens of the prompt that is read beside answers")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        chatbot = load_chatbot(recipes.load(arguments.model), arguments.variant)
        longest = max(arguments.conversation, 2 * arguments.prompt) + 64 * max(arguments.counts)
        serving = Serving(chatbot.decoder, chatbot.session.tokenizer, longest)
        rates: dict[int, list[float]] = {count: [] for count in arguments.counts}
        for _round in range(arguments.rounds):
            for count in arguments.counts:
                rates[count].append(serving.throughput(count))
        print("| answers at a time | tokens/s | beside one |\n|--:|--:|--:|")
        one = median(rates[min(rates)])
        for count, found in rates.items():
            print(f"| {count} | {median(found):.1f} | {median(found) / one:.2f} × |", flush=True)
        first, turn = serving.turns(arguments.conversation)
        print(
            f"{arguments.conversation} tokens: first token after {first:.2f} s, of the next turn {turn:.2f} s ({turn / first:.1%})"
        )
        kept, longer = serving.beside(arguments.prompt)
        print(
            f"a prompt of {arguments.prompt} tokens beside 4 answers: they keep {kept:.0%}, it takes {longer:.2f} times as long"
        )
    except ItrexChatError as error:
        print(f"many_at_once: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
