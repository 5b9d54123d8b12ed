"""What a person sees while questions are asked."""

import sys
import time

from tqdm import tqdm

from itrex_chat.foundation import progress
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Facts, Pace
from itrex_chat.jobs.forecast import Forecast, reading
from itrex_chat.settings.questions import Question
from itrex_chat.settings.variant import drafter_title, titled


class Display:
    """Streams answers where standard output is a terminal; elsewhere prints each when it is whole, and so with several at
    a time, where a bar shows how far they are."""

    def __init__(self) -> None:
        self._streams = sys.stdout is not None and sys.stdout.isatty()  # None in a program that began without it
        self._bar: tqdm | None = None  # while several are made together
        self._together = self._characters = self._answered = self._count = 0
        self._expected: float | None = None  # seconds of all answers, where that was foretold
        self._began = 0.0

    def model(self, label: str, question_set: str, count: int) -> None:
        tell(f"\n=== {label} · " + _("{count} questions of {name}", count=count, name=question_set))

    def loaded(self, label: str, variant: str, facts: Facts) -> None:
        self._expected = None
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

    def streams(self, facts: Facts, pace: Pace, expected: Forecast, count: int) -> None:
        """Weights are read from disk for each pass; what that takes for `count` questions."""
        self._expected, self._began = max(1.0, expected.seconds), time.perf_counter()
        time_taken = lasting(expected.seconds)
        if expected.known:
            told = (
                _("one question takes about {time}", time=time_taken)
                if count == 1
                else _("{count} questions take about {time}", count=count, time=time_taken)
            )
        else:
            told = (
                _("one question takes {time} at most", time=time_taken)
                if count == 1
                else _("{count} questions take {time} at most", count=count, time=time_taken)
            )
        tell(reading(facts, pace) + told)

    def question(self, question: Question, number: int, count: int) -> None:
        if self._streams:
            self._head(question, number, count)

    def has_bar(self, batch: int) -> bool:
        """Whether a bar shows how far answers are, `batch` of them at a time."""
        return batch > 1 or (self._expected is not None and not self._streams)

    def several(self, batch: int, number: int, count: int) -> None:
        """`number` of the `count` questions are answered; the next ones are, up to `batch` at a time. The bar's end is that
        of the time that was foretold, or the last question."""
        if number == count:
            return
        if self._bar is None:
            total, unit = (count, "questions") if self._expected is None else (round(self._expected), "s")
            self._bar, self._characters = progress.bar(_("answering"), total, unit), 0
        self._answered, self._count = number, count
        self._together = min(batch, count - number)
        self._move()

    def _move(self) -> None:
        assert self._bar is not None and self._bar.total is not None
        if self._expected is None:
            done = self._answered
        else:
            done = min(int(time.perf_counter() - self._began), int(self._bar.total) - 1)
            self._bar.set_description_str(f"{_('answering')} {self._answered}/{self._count}", refresh=False)
        self._bar.update(done - self._bar.n)

    def text(self, piece: str) -> None:
        if self._bar is not None:
            self._characters += len(piece)
            told = _("{together} at a time, {count} characters", together=self._together, count=self._characters)
            self._bar.set_postfix_str(told, refresh=False)
            self._move()
        elif self._streams:
            tell(piece, end="")

    def answer(self, question: Question, number: int, count: int, answer: Answer) -> None:
        if self._bar is not None or not self._streams:
            self._quiet(number == count)
            self._head(question, number, count)
            tell(answer.text, end="")
        if answer.batch:
            together = _("one of up to {count} at a time", count=answer.batch)
            tell("\n  [" + _("{count} tokens", count=answer.new_tokens) + f", {together}, {answer.finish_reason}]")
            return
        rate = f", {answer.tokens_per_second:.1f} tok/s" if answer.tokens_per_second else ""
        if answer.drafts and answer.drafted_tokens and answer.plain_tokens_per_second:
            rate += " (" + _("{rate:.1f} without drafts", rate=answer.plain_tokens_per_second) + ")"
        tell(
            "\n  [" + _("{count} tokens", count=answer.new_tokens) + f", TTFT {answer.ttft:.2f} s{rate}, "
            f"{answer.finish_reason}]"
        )

    def notice(self, text: str) -> None:
        self._quiet(True)
        tell(text, file=sys.stderr)

    def _quiet(self, done: bool) -> None:
        """Take the bar away for what is printed, for good where it is `done`."""
        if self._bar is not None:
            self._bar.clear()
            if done:
                self._bar.close()
                self._bar = None

    @staticmethod
    def _head(question: Question, number: int, count: int) -> None:
        tell(f"\n[{number}/{count}] {question.id}: {question.text}")


class SpreadDisplay(Display):
    """For answers of many machines at a time: one bar over all of them, and a line for each variant that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = progress.bar(_("answering"), 0, "answers")

    def more(self, count: int) -> None:
        """So many questions more are asked."""
        assert self._bar is not None
        self._bar.total = (self._bar.total or 0) + count
        self._bar.refresh()

    def model(self, label: str, question_set: str, count: int) -> None:
        self._quiet(False)
        super().model(label, question_set, count)

    def loaded(self, label: str, variant: str, facts: Facts) -> None:
        self._quiet(False)
        super().loaded(label, variant, facts)

    def streams(self, facts: Facts, pace: Pace, expected: Forecast, count: int) -> None:
        """Nothing: machines differ."""

    def question(self, question: Question, number: int, count: int) -> None:
        """Nothing: many are asked at a time."""

    def has_bar(self, batch: int) -> bool:
        return False

    def text(self, piece: str) -> None:
        """Nothing: many are given at a time."""

    def answer(self, question: Question, number: int, count: int, answer: Answer) -> None:
        assert self._bar is not None
        self._characters += len(answer.text)
        self._bar.set_postfix_str(_("{count} characters", count=self._characters), refresh=False)
        self._bar.update(1)

    def notice(self, text: str) -> None:
        self._quiet(False)
        tell(text, file=sys.stderr)

    def close(self) -> None:
        self._quiet(True)
