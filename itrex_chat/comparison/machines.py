"""Whose times are compared: those of answers that one machine gave."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from itrex_chat.foundation import machine
from itrex_chat.jobs.answer import Answer
from itrex_chat.runs.record import RunRecord

OF_A_MACHINE = frozenset(
    {
        "ttft",
        "tpot",
        "tokens_per_second",
        "prefill_tokens_per_second",
        "seconds",
        "load_seconds",
        "read_rate",
        "peak_memory",
    }
)
"""Figures that are compared on one machine only."""


class Machines:
    """The machines that the answers of some records were made on."""

    def __init__(self, records: Iterable[RunRecord]):
        self.described: dict[str, dict[str, Any]] = {}
        for record in records:
            self.described[self.of(record)] = record.content.machine
            self.described |= record.content.machines or {}

    def cpus(self) -> dict[str, str]:
        """The processor of each."""
        return {name: str(described.get("cpu", "?")) for name, described in self.described.items()}

    def of(self, record: RunRecord, answer: Answer | None = None) -> str:
        """What the machine is called that a record's answer was made on, and without one, the record's own."""
        if answer and answer.machine:
            return answer.machine
        own = record.content.machine
        same = (name for name, described in self.described.items() if machine.same(own, described))
        return next(same, machine.called(own))

    def chosen(self, made: dict[str, list[str]]) -> dict[str, str]:
        """By variant, the machine whose times its figures are of, where it was `made` on these: the one that most variants
        have answers of, else the one that gave most of the variant's own."""
        shared = Counter(name for names in made.values() for name in {*names})
        all_of = Counter(name for names in made.values() for name in names)
        return {
            variant: max(dict.fromkeys(names), key=lambda name: (shared[name], all_of[name]))
            for variant, names in made.items()
            if names
        }
