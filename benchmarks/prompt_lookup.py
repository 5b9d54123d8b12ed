"""What prompt lookup gives: the same questions with it and without it, in turn, in one process.

    python benchmarks/prompt_lookup.py --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf --variants fp32 int4

Printed for each variant: what a pass over several tokens takes beside one token, and for each question the tokens that
were drafted and accepted, and decode with prompt lookup beside without (medians; 1.00 is as fast, 2.00 twice as fast).
The questions are those of `prompts/` and `measuring/copying.yaml`, whose answers repeat much of the prompt. An answer
that differs ends the run with an error.
"""

import argparse
import gc
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median

from itrex_chat.foundation import progress
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.generation.lookup import LONGEST
from itrex_chat.generation.loop import prefill
from itrex_chat.neuralchat.chatbot import Chatbot, load_chatbot
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question

COPYING = Path(__file__).parent / "measuring" / "copying.yaml"
PASSES = 12


@dataclass(frozen=True)
class Measured:
    """One question. `gain`: seconds per token without prompt lookup divided by those with it."""

    question: Question
    tokens: int
    drafted: int
    accepted: int
    gain: float


def passes(chatbot: Chatbot) -> dict[int, float]:
    """Seconds of a pass over 1 … LONGEST + 1 tokens, in turn, medians."""
    decoder = chatbot.decoder
    seconds: dict[int, list[float]] = {count: [] for count in range(1, LONGEST + 2)}
    prompt = list(range(100, 300))
    cache = decoder.new_cache(len(prompt) + LONGEST + 1)
    prefill(decoder, prompt, cache)
    for _pass in range(PASSES):
        for count, taken in seconds.items():
            started = time.perf_counter()
            decoder.decode(prompt[:count], cache)
            taken.append(time.perf_counter() - started)
            cache.forget(count)
    return {count: median(taken) for count, taken in seconds.items()}


def measure(chatbot: Chatbot, question: Question, tokens: int, rounds: int) -> Measured | None:
    """None for an answer of one token."""
    on = GenerationConfig(max_new_tokens=tokens, prompt_lookup=True)
    ways = {"off": replace(on, prompt_lookup=False, draft="none"), "on": on}
    taken: dict[str, list[float | None]] = {way: [] for way in ways}
    answers = {}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            answers[way] = chatbot.chat([{"role": "user", "content": question.text}], ways[way])
            taken[way].append(answers[way].tpot)
    if answers["on"].token_ids != answers["off"].token_ids:
        raise SystemExit(f"{question.id}: the answers differ with and without prompt lookup")
    known = {way: [seconds for seconds in times if seconds is not None] for way, times in taken.items()}
    if len(known["on"]) < rounds:
        return None
    return Measured(
        question,
        answers["on"].new_tokens,
        answers["on"].drafted_tokens,
        answers["on"].accepted_tokens,
        median(known["off"]) / median(known["on"]),
    )


def report(variant: str, seconds: dict[int, float], kinds: dict[str, list[Measured]]) -> str:
    one = seconds[1]
    lines = [
        f"## {variant.upper()}",
        "",
        f"A pass over one token takes {1000 * one:.1f} ms; over "
        + ", ".join(f"{count}: {taken / one:.2f} ×" for count, taken in seconds.items() if count > 1)
        + ".",
        "",
        "| question | tokens | drafted | accepted | speed |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, measured in kinds.items():
        lines += [f"| {m.question.id} | {m.tokens} | {m.drafted} | {m.accepted} | {m.gain:.2f} × |" for m in measured]
        if gains := [m.gain for m in measured]:
            lines.append(
                f"| **{kind}** (mean; lowest–highest) | {sum(m.tokens for m in measured)} "
                f"| {sum(m.drafted for m in measured)} | {sum(m.accepted for m in measured)} "
                f"| **{geometric_mean(gains):.2f} ×** ({min(gains):.2f}–{max(gains):.2f}) |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=recipes.EMBEDDED, help="a recipe, a folder or a .gguf file")
    parser.add_argument("--variants", nargs="+", default=["fp32", "int4"])
    parser.add_argument("--prompts", nargs="*", default=question_sets.names(), help="question sets; default: all")
    parser.add_argument("--questions", type=int, help="ask at most this many of each kind, spread over them")
    parser.add_argument("--tokens", type=int, default=200, help="at most so many an answer")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    kinds = {
        "ordinary": list(
            {
                question.id: question for name in arguments.prompts for question in question_sets.load(name).questions
            }.values()
        ),
        "copying": list(question_sets.load(str(COPYING)).questions),
    }
    if arguments.questions:
        kinds = {kind: asked[:: -(-len(asked) // arguments.questions)] for kind, asked in kinds.items()}
    try:
        for variant in arguments.variants:
            chatbot = load_chatbot(recipes.load(arguments.model), variant)
            seconds = passes(chatbot)
            with progress.bar(
                f"asking {variant}", arguments.rounds * sum(map(len, kinds.values())), "questions"
            ) as shown:
                found: dict[str, list[Measured | None]] = {}
                for kind, asked in kinds.items():
                    found[kind] = []
                    for question in asked:
                        found[kind].append(measure(chatbot, question, arguments.tokens, arguments.rounds))
                        shown.update(arguments.rounds)
            print(
                report(variant, seconds, {kind: [m for m in measured if m] for kind, measured in found.items()}),
                flush=True,
            )
            del chatbot
            gc.collect()
    except ItrexChatError as error:
        print(f"prompt_lookup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
