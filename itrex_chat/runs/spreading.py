"""Asking where an executor has several machines: models at a time, and parts of a model's questions.

A part of a model's questions is asked of all its variants by one machine, one variant after the other, so that their speeds can
be compared. The thread that calls `spread` alone writes the record.
"""

import dataclasses

from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.jobs.event import Event, Prepared
from itrex_chat.jobs.executor import Executor
from itrex_chat.jobs.job import Ask
from itrex_chat.jobs.together import Together, at_once
from itrex_chat.runs.display import SpreadDisplay
from itrex_chat.runs.questioning import Asked, Asking, Following
from itrex_chat.settings.shard import Shard

FEW = 25  # questions of a part that is not made smaller for the sake of an even end
IDLE = 0.1  # of the machines' time at most, at the end, where there are questions enough


def parts(questions: int, models: int, machines: int) -> int:
    """How many parts a model's questions are asked in: as few as all machines have something to do with, since each part loads
    its model, and not many of them nothing in the end."""
    least = min(questions, -(-machines // max(1, models)))
    for count in range(max(1, least), questions // FEW + 1):
        jobs = models * count
        if -(-jobs // machines) * machines <= (1 + IDLE) * jobs:
            return count
    return max(1, least)


def spread(asking: Asking, executor: Executor, models: list[Asked]) -> None:
    """Prepare all models and ask their variants, as many at a time as the executor does."""
    asking.record.sparing = True
    together, preparing = Together(executor), dict[str, Asked]()
    for model in models:
        if job := asking.preparing(model):
            preparing[job.id] = model
            together.add([job])
    try:
        _follow(asking, together, preparing, executor)
    finally:
        if isinstance(asking.display, SpreadDisplay):
            asking.display.close()
        asking.record.save()
    asking.record.put_in_order()


def _follow(asking: Asking, together: Together, preparing: dict[str, Asked], executor: Executor) -> None:
    """Keep what comes, and add what there is to ask of models as they are prepared."""
    following, models = dict[str, OfPart](), len(preparing)
    for told in together.told():
        if part := following.get(told.job.id):
            if told.event:
                part.take(told.event)
            else:
                part.end(told.error)
        elif isinstance(told.event, Prepared):
            for chain in chains(asking, preparing[told.job.id], told.event, models, at_once(executor)):
                following |= {part.job.id: part for part in chain}
                together.add([part.job for part in chain], first=True)
        elif isinstance(told.error, RunError):
            asking.unprepared(preparing[told.job.id], told.error)


def chains(asking: Asking, model: Asked, prepared: Prepared, models: int, machines: int) -> "list[list[OfPart]]":
    """What is asked of a model that is prepared: for each part of its questions, one variant after the other."""
    variants = [_Variant(found) for found in asking.jobs(model, prepared)]
    if isinstance(asking.display, SpreadDisplay):
        asking.display.more(sum(len(variant.whole.job.questions) for variant in variants))
    asked = [question.id for question in asking.record.model(model.label).questions or ()]
    count = parts(len(asked), models, machines)
    found = []
    for number in range(1, count + 1):
        mine = set(Shard(number, count).of(asked))
        found.append([part for variant in variants if (part := variant.part(asking, mine))])
    return [chain for chain in found if chain]


class _Variant:
    """A variant whose questions are asked in parts: how many of these have not ended, and how the others did."""

    def __init__(self, whole: Following):
        self.whole, self.open, self.peak_memory = whole, 0, 0
        self.error: RunError | None = None

    def part(self, asking: Asking, mine: set[str]) -> "OfPart | None":
        """What is kept of a part, by the ids of its questions; None where the variant has answered all of them."""
        job = self.whole.job
        questions = tuple(question for question in job.questions if question.id in mine)
        if not questions:
            return None
        self.open += 1
        part = Ask(
            **{
                field.name: getattr(job, field.name)
                for field in dataclasses.fields(job)
                if field.name not in ("id", "questions", "batch")
            },
            questions=questions,
            batch=min(job.batch, len(questions)),
        )
        return OfPart(asking, part, self.whole, self)


class OfPart(Following):
    """What is kept of a part of a variant's questions."""

    def __init__(self, asking: Asking, job: Ask, whole: Following, variant: _Variant):
        super().__init__(asking, job, whole.number, whole.count, whole.files)
        self._variant, self._ended = variant, False

    def take(self, event: Event) -> None:
        """As of a whole one; where the model is another one now, nothing more is kept."""
        if self._ended:
            return
        try:
            super().take(event)
        except RunError as error:
            self.end(error)

    def _done(self, peak_memory: int) -> None:
        self._variant.peak_memory = max(self._variant.peak_memory, peak_memory)

    def end(self, error: ItrexChatError | None) -> None:
        """The end of the part, and with the last one that of the variant."""
        if self._ended:
            return
        self._ended = True
        variant, job = self._variant, self.job
        variant.open -= 1
        if isinstance(error, RunError):
            variant.error = variant.error or error
        if variant.open:
            return
        if variant.error:
            self._asking.ended(job.label, job.variant, variant.error)
        else:
            self._asking.record.note(job.label, job.variant, state="done", peak_memory=variant.peak_memory)
