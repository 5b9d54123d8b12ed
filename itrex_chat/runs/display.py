"""What a person sees while questions are asked."""

import sys

from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Facts
from itrex_chat.settings.questions import Question
from itrex_chat.settings.variant import drafter_title, titled


class Display:
    """Streams answers where standard output is a terminal; elsewhere prints each when it is whole."""

    def __init__(self) -> None:
        self._streams = sys.stdout.isatty()

    def model(self, label: str, question_set: str, count: int) -> None:
        tell(f"\n=== {label} · " + _("{count} questions of {name}", count=count, name=question_set))

    def loaded(self, label: str, variant: str, facts: Facts) -> None:
        tell(
            f"\n--- {label} · {titled(variant)}"
            + (_(", kept in 16 bits ({dtype})", dtype=facts.storage) if facts.storage else "")
            + " · "
            + _(
                "{kernel}, {threads} threads, loaded in {seconds:.1f} s, {memory}",
                kernel=facts.kernel,
                threads=facts.threads,
                seconds=facts.seconds,
                memory=readable(facts.memory),
            )
        )
        if drafter := facts.drafter:
            name = drafter_title(drafter.name)
            if drafter.why:
                tell(_("{drafter} does not draft: {reason}.", drafter=name, reason=drafter.why.rstrip(".")))
            else:
                tell(
                    _(
                        "{drafter} drafts, loaded in {seconds:.1f} s, {memory}; the answers are the same without it.",
                        drafter=name,
                        seconds=drafter.seconds,
                        memory=readable(drafter.memory),
                    )
                )
        if facts.why:
            tell(_("Faster kernels cannot run here. {reasons}.", reasons=facts.why))

    def question(self, question: Question, number: int, count: int) -> None:
        if self._streams:
            self._head(question, number, count)

    def text(self, piece: str) -> None:
        if self._streams:
            tell(piece, end="")

    def answer(self, question: Question, number: int, count: int, answer: Answer) -> None:
        if not self._streams:
            self._head(question, number, count)
            tell(answer.text, end="")
        rate = f", {answer.tokens_per_second:.1f} tok/s" if answer.tokens_per_second else ""
        if answer.drafts and answer.drafted_tokens and answer.plain_tokens_per_second:
            rate += " (" + _("{rate:.1f} without drafts", rate=answer.plain_tokens_per_second) + ")"
        tell(
            "\n  [" + _("{count} tokens", count=answer.new_tokens) + f", TTFT {answer.ttft:.2f} s{rate}, "
            f"{answer.finish_reason}]"
        )

    def notice(self, text: str) -> None:
        tell(text, file=sys.stderr)

    @staticmethod
    def _head(question: Question, number: int, count: int) -> None:
        tell(f"\n[{number}/{count}] {question.id}: {question.text}")
