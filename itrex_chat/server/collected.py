"""What the page has the server keep as runs: votes, and conversations that somebody wants to compare."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.ratings import given
from itrex_chat.ratings.votes import Vote, Voted, tally
from itrex_chat.runs import gathered
from itrex_chat.runs.gathered import Made
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.server.errors import SERVER, ApiError
from itrex_chat.settings.variant import ORDER

VOTES, CONVERSATION = "votes", "page"  # what the names of such runs begin with
MOST_RUNS, LARGEST = 1000, 2_000_000_000  # runs, bytes of their answers
MOST_QUESTIONS, MOST_VOTES = 500, 5000  # of a run of votes; then there is another one
REMEMBERED = 10_000  # votes that can be changed


class Collected:
    """Runs in the folder `runs` (None: that of the cache). Not to be used by two threads at a time."""

    def __init__(self, runs: Path | None = None, most: int = MOST_RUNS, largest: int = LARGEST):
        self._runs, self._most, self._largest = runs, most, largest
        self._voted: OrderedDict[str, tuple[Path, Vote]] = OrderedDict()  # by the vote's id

    @property
    def runs(self) -> Path:
        return self._runs or cache_home() / "runs"

    def vote(self, found: Sequence[Made], best: Sequence[int], blind: bool) -> tuple[str, list[Voted]]:
        """Keep a vote on the answers of a round, with these: the name of their run, and what all its votes say. `best`: places
        in `found`, as of `Vote`. An earlier vote on the same answers is replaced; only the first one was blind. Raises
        ApiError, RunError."""
        id = _id(found)
        known = self._voted.get(id)
        if known and (known[0] / RUN).exists():
            folder, before = known
            question, blind = before.question, False
        else:
            folder = self._votes_run(found)
            record = RunRecord.start(folder, gathered.spec_of([found]))
            try:
                question = gathered.add(record, found)
            finally:
                record.close()
        vote = Vote(id, question, tuple(made.answerer for made in found), tuple(best), blind)
        given.keep_votes(folder, [vote])
        self._voted[id] = folder, vote
        while len(self._voted) > REMEMBERED:
            self._voted.popitem(last=False)
        return folder.name, tally(given.votes_of(folder), list(ORDER))

    def voted(self, found: Sequence[Made]) -> Vote | None:
        """The vote on these answers, with their places as they are here."""
        if not (known := self._voted.get(_id(found))):
            return None
        _folder, vote = known
        answers = tuple(made.answerer for made in found)
        best = sorted(answers.index(vote.answers[place]) for place in vote.best)
        return dataclasses.replace(vote, answers=answers, best=tuple(best))

    def write(self, rounds: Sequence[Sequence[Made]]) -> list[str]:
        """Keep rounds with the votes on them as a new run, or as several where they cannot be in one: their names. Raises
        ApiError, RunError."""
        names = []
        for together in gathered.apart(rounds):
            self._check_room()
            names.append(gathered.write(self.runs, CONVERSATION, together, partial(self._with_votes, together)).name)
        return names

    def _with_votes(self, rounds: Sequence[Sequence[Made]], folder: Path, questions: list[str]) -> None:
        votes = [
            dataclasses.replace(vote, question=question)
            for question, found in zip(questions, rounds)
            if (vote := self.voted(found))
        ]
        if votes:
            given.keep_votes(folder, votes)

    def _votes_run(self, found: Sequence[Made]) -> Path:
        """The folder of the votes on what these variants say with these settings."""
        stem, number = f"{VOTES}-{gathered.name_of(found)}", 1
        while True:
            folder = self.runs / (stem if number == 1 else f"{stem}-{number}")
            if not (folder / RUN).exists():
                self._check_room()
                return folder
            models = RunRecord.read(folder).content.models.values()
            questions = max((len(facts.questions or ()) for facts in models), default=0)
            if questions < MOST_QUESTIONS and len(given.votes_of(folder)) < MOST_VOTES:
                return folder
            number += 1

    def _check_room(self) -> None:
        """Raise ApiError where there are enough of these runs."""
        found = [path for stem in (VOTES, CONVERSATION) for path in self.runs.glob(f"{stem}-*")]
        size = sum((path / ANSWERS).stat().st_size for path in found if (path / ANSWERS).is_file())
        if len(found) >= self._most or size >= self._largest:
            raise ApiError(
                507,
                _(
                    "The page has {count} runs with {size} of answers, and no more are kept; remove some where the server "
                    "keeps them.",
                    count=len(found),
                    size=readable(size),
                ),
                code="store_full",
                kind=SERVER,
            )


def _id(found: Sequence[Made]) -> str:
    """What tells a vote from others: the answers, in any order."""
    return hashlib.sha256("\0".join(sorted(made.answer.id for made in found)).encode()).hexdigest()[:16]
