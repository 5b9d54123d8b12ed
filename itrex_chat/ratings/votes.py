"""Votes: which of the answers to a question somebody found best, and what all of them say of each two variants."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from itrex_chat.quality import intervals
from itrex_chat.quality.intervals import Estimate, Sample

Answerer = tuple[str, str]  # a model's label in its run, and a variant


@dataclass(frozen=True)
class Vote:
    """`best`: places among `answers` that nobody is better than: one of them, all where they are equally good, none where all
    are bad. `id` tells which answers were voted on, `question` is that of the run. `blind`: given without the names. Raises
    ValueError for one that cannot be."""

    id: str
    question: str
    answers: tuple[Answerer, ...]
    best: tuple[int, ...]
    blind: bool

    def __post_init__(self) -> None:
        count = len(self.answers)
        if count < 2 or len(set(self.answers)) < count:
            raise ValueError(self.answers)
        if self.best not in [(), tuple(range(count)), *((place,) for place in range(count))]:
            raise ValueError(self.best)

    def says(self, one: Answerer, other: Answerer) -> str | None:
        """ "first", "second", "equal" or "bad" of two of its answers; None where it does not tell: a third one is best."""
        if {one, other} - set(self.answers):
            return None
        if not self.best:
            return "bad"
        best = {self.answers[place] for place in self.best}
        if {one, other} <= best:
            return "equal"
        return "first" if one in best else "second" if other in best else None


@dataclass(frozen=True)
class Voted:
    """What the votes say of two variants. `preferred`: the share of those for one of them that are for the `second`, with an
    interval that counts questions; None where there are none. `blind` of all these `votes` were given without the names."""

    first_model: str
    first: str
    second_model: str
    second: str
    votes: int
    blind: int
    for_first: int
    for_second: int
    equal: int
    bad: int
    preferred: Estimate | None


def tally(votes: Iterable[Vote], order: list[str]) -> list[Voted]:
    """A line for each two that were voted on together: models in the order in which they come, variants in `order`. A vote
    that is in several runs counts once."""
    known = list({vote.id: vote for vote in votes}.values())
    models = list(dict.fromkeys(model for vote in known for model, _variant in vote.answers))

    def place(answerer: Answerer) -> tuple[int, int, str]:
        model, variant = answerer
        return models.index(model), order.index(variant) if variant in order else len(order), variant

    every = sorted({answerer for vote in known for answerer in vote.answers}, key=place)
    pairs = [(one, other) for number, one in enumerate(every) for other in every[number + 1 :]]
    return [found for pair in pairs if (found := _voted(known, *pair))]


def _voted(votes: list[Vote], one: Answerer, other: Answerer) -> Voted | None:
    told = [(vote, outcome) for vote in votes if (outcome := vote.says(one, other))]
    if not told:
        return None
    said = [each for _vote, each in told]
    return Voted(
        *one,
        *other,
        votes=len(told),
        blind=sum(vote.blind for vote, _said in told),
        for_first=said.count("first"),
        for_second=said.count("second"),
        equal=said.count("equal"),
        bad=said.count("bad"),
        preferred=_preferred([(vote.question, each == "second") for vote, each in told if each in ("first", "second")]),
    )


def _preferred(decided: list[tuple[str, bool]]) -> Estimate | None:
    """The share of True, with an interval that takes questions for what is independent."""
    if not decided:
        return None
    decided = sorted(decided)
    questions = {name: number for number, name in enumerate(dict.fromkeys(question for question, _for in decided))}
    passages = np.array([questions[question] for question, _for in decided])
    return intervals.share(Sample(np.array([found for _question, found in decided], float), passages))
