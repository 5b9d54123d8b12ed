"""What drafts by another model give: the same questions with them and without, in turn, in one process.

    python benchmarks/drafts.py --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf --draft int4
    python benchmarks/drafts.py --model FOLDER --set fp32.storage fp32
    python benchmarks/drafts.py --model large.gguf --variants int4 --draft small.gguf --prompts report-8

Printed for each variant: what a pass over several tokens takes beside one token, and for each question tokens per second
without drafts and with them, passes, and at how many places the variant would have chosen the drafter's next token. The
rate with drafts is that of the whole answer, with the drafter's own reading of the prompt and with the tokens that come
without drafts. An answer that differs ends the run with an error.
"""

import argparse
import gc
import sys
from dataclasses import dataclass, replace
from statistics import median

from prompt_lookup import passes

from itrex_chat.foundation import progress
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.generation.response import Response
from itrex_chat.neuralchat.chatbot import Chatbot, load_chatbot
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question


@dataclass(frozen=True)
class Measured:
    """One question: the last answer with drafts, and the median seconds of decode without and with them."""

    question: Question
    response: Response
    plain: float
    drafted: float

    @property
    def passes(self) -> int:
        return self.response.new_tokens - self.response.accepted_tokens


def measure(chatbot: Chatbot, question: Question, config: GenerationConfig, rounds: int) -> Measured | None:
    """None for an answer of one token."""
    ways = {"plain": replace(config, draft="none"), "drafted": config}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, Response] = {}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            answer = answers[way] = chatbot.chat([{"role": "user", "content": question.text}], ways[way])
            if answer.tpot is None:
                return None
            taken[way].append(answer.tpot * (answer.new_tokens - (answer.finish_reason == "length")))
    if answers["drafted"].token_ids != answers["plain"].token_ids:
        raise SystemExit(f"{question.id}: the answers differ with and without drafts")
    if not answers["drafted"].drafter:
        raise SystemExit("nothing drafts here: --draft names a model, and the kernel must be native")
    return Measured(question, answers["drafted"], median(taken["plain"]), median(taken["drafted"]))


def line(name: str, found: list[Measured]) -> str:
    tokens, steps = sum(m.response.new_tokens for m in found), sum(m.passes for m in found)
    plain, drafted = sum(m.plain for m in found), sum(m.drafted for m in found)
    places, agreed = (sum(getattr(m.response, f"{of}_tokens") for m in found) for of in ("judged", "agreed"))
    share = f"{100 * agreed / places:.1f} % of {places}" if places else "–"
    return (
        f"| {name} | {tokens} | {tokens / plain:.2f} | {tokens / drafted:.2f} | {plain / drafted:.2f} × | {steps} "
        f"| {share} |"
    )


def report(variant: str, seconds: dict[int, float], measured: list[Measured]) -> str:
    one = seconds[1]
    costs = ", ".join(f"{count}: {taken / one:.2f} ×" for count, taken in seconds.items() if count > 1)
    lines = [
        f"## {variant.upper()}, drafted by {measured[0].response.drafter if measured else '–'}",
        "",
        f"A pass over one token takes {1000 * one:.1f} ms; over {costs}.",
        "",
        "| question | tokens | tokens/s | with drafts | ratio | passes | next token agreed |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(line(m.question.id, [m]) for m in measured),
        line("**all**", measured),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=recipes.EMBEDDED, help="a recipe, a folder or a .gguf file")
    parser.add_argument("--variants", nargs="+", default=["fp32"])
    parser.add_argument("--draft", default="int4", help="int4, int8 or a model of the same vocabulary")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as in ask")
    parser.add_argument("--prompts", nargs="*", default=question_sets.names(), help="question sets; default: all")
    parser.add_argument("--questions", type=int, help="ask at most this many, spread over them")
    parser.add_argument("--tokens", type=int, default=200, help="at most so many an answer")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    asked = list({q.id: q for name in arguments.prompts for q in question_sets.load(name).questions}.values())
    if arguments.questions:
        asked = asked[:: -(-len(asked) // arguments.questions)]
    config = GenerationConfig(max_new_tokens=arguments.tokens, draft=arguments.draft)
    try:
        for variant in arguments.variants:
            chatbot = load_chatbot(recipes.load(arguments.model, sum(arguments.set, [])), variant)
            seconds, measured = passes(chatbot), []
            with progress.bar(f"asking {variant}", len(asked), "questions") as shown:
                for question in asked:
                    if found := measure(chatbot, question, config, arguments.rounds):
                        measured.append(found)
                        print(line(question.id, [found]), file=sys.stderr)
                    shown.update()
            print(report(variant, seconds, measured), flush=True)
            del chatbot
            gc.collect()
    except ItrexChatError as error:
        print(f"drafts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
