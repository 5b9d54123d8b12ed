"""What a person sees while questions are asked."""

import sys

from itrex_chat.foundation.harmless import for_terminal as safe
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Facts
from itrex_chat.settings.questions import Question
from itrex_chat.settings.variant import titled


class Display:
    """Streams answers where standard output is a terminal; elsewhere prints each when it is whole."""

    def __init__(self) -> None:
        self._streams = sys.stdout.isatty()

    def model(self, label: str, question_set: str, count: int) -> None:
        print(f"\n=== {label} · " + _("{count} questions of {name}", count=count, name=question_set), flush=True)

    def loaded(self, label: str, variant: str, facts: Facts) -> None:
        print(
            f"\n--- {label} · {titled(variant)} · "
            + _(
                "{kernel}, {threads} threads, loaded in {seconds:.1f} s, {memory}",
                kernel=facts.kernel,
                threads=facts.threads,
                seconds=facts.seconds,
                memory=readable(facts.memory),
            ),
            flush=True,
        )
        if facts.why:
            print(_("Faster kernels cannot run here. {reasons}.", reasons=facts.why), flush=True)

    def question(self, question: Question, number: int, count: int) -> None:
        if self._streams:
            self._head(question, number, count)

    def text(self, piece: str) -> None:
        if self._streams:
            print(safe(piece), end="", flush=True)

    def answer(self, question: Question, number: int, count: int, answer: Answer) -> None:
        if not self._streams:
            self._head(question, number, count)
            print(safe(answer.text), end="")
        rate = f", {answer.tokens_per_second:.1f} tok/s" if answer.tokens_per_second else ""
        print(
            "\n  [" + _("{count} tokens", count=answer.new_tokens) + f", TTFT {answer.ttft:.2f} s{rate}, "
            f"{answer.finish_reason}]",
            flush=True,
        )

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @staticmethod
    def _head(question: Question, number: int, count: int) -> None:
        print(f"\n[{number}/{count}] {question.id}: {safe(question.text)}", flush=True)
