"""Runs of answers that were made elsewhere, in a conversation for instance: the same record, as if they had been asked."""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import QuestionSetError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import ArtifactFacts, Facts
from itrex_chat.runs.content import Spec
from itrex_chat.runs.identity import artifact_key
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import ORDER

SET = "conversation"  # what stands for the name of a question set


@dataclass(frozen=True)
class Made:
    """An answer with what was asked and what made it.

    `turns`: what was said to the model, in turn with its answers; the last is the question. `recipe` has the settings that
    this answer was generated with, `seeded` says whether they name its seed or chance did. `needed`: bytes of memory to load
    the variant. The answer's own `id` means nothing.
    """

    answer: Answer
    turns: tuple[str, ...]
    system: str
    recipe: Recipe
    seeded: bool
    facts: Facts
    needed: int
    artifact: ArtifactFacts | None = None

    @property
    def answerer(self) -> tuple[str, str]:
        return self.answer.model, self.answer.variant

    @property
    def setting(self) -> str:
        """What is the same for all answers of a model in a run."""
        return json.dumps([self.recipe.as_dict() | {"generation": self.generation()}, self.system], sort_keys=True)

    @property
    def weights(self) -> str:
        """Which files the variant was of."""
        if self.artifact:
            return artifact_key(self.artifact.folder)
        return self.facts.files.digest or self.facts.files.stamp or ""

    def generation(self) -> dict[str, Any]:
        """How it was generated; the seed is None where each answer has its own."""
        found = dataclasses.asdict(self.recipe.generation)
        return found | {"seed": None} if found["do_sample"] and not self.seeded else found


Round = Sequence[Made]  # the answers of several variants to one question


def apart(rounds: Iterable[Round]) -> list[list[Round]]:
    """Rounds that can be in one run together: those in which nobody was asked otherwise, or had become another model."""
    groups: list[tuple[dict[str, str], dict[tuple[str, str], str], list[Round]]] = []
    for each in rounds:
        settings = {made.answer.model: made.setting for made in each}
        weights = {made.answerer: made.weights for made in each}
        for known, had, found in groups:
            if all(known.get(label, setting) == setting for label, setting in settings.items()) and all(
                had.get(answerer, weight) == weight for answerer, weight in weights.items()
            ):
                known |= settings
                had |= weights
                found.append(each)
                break
        else:
            groups.append((settings, weights, [each]))
    return [found for _settings, _weights, found in groups]


def spec_of(rounds: Sequence[Round]) -> Spec:
    """What was asked of whom in rounds that are one run; the questions may become more."""
    made = {each.answer.model: each for found in rounds for each in found}
    recipes = {label: each.recipe.as_dict() for label, each in sorted(made.items())}
    variants = {each.answer.variant for found in rounds for each in found}
    system = next(iter(made.values())).system
    return Spec.of(
        {
            "models": [{"label": label, "recipe": recipe} for label, recipe in recipes.items()],
            "variants": sorted(variants, key=ORDER.index),
            "questions": dataclasses.asdict(QuestionSet(SET, "", (), system)),
        }
    )


def name_of(found: Round) -> str:
    """A name for the run of all answers that the same variants give with the same settings: letters and digits."""
    settings = sorted((*made.answerer, made.setting, made.weights) for made in found)
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def write(
    runs: Path, stem: str, rounds: Sequence[Round], also: Callable[[Path, list[str]], None] = lambda folder, ids: None
) -> Path:
    """A new run in the folder `runs`, whole or not at all: its folder, whose name begins with `stem`. `also` writes more into
    it, knowing the id of each round's question. Raises RunError."""
    files.writable(runs, RunError)
    stem = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    with (
        files.disk_errors(RunError, _("Writing to {folder}", folder=runs)),
        tempfile.TemporaryDirectory(dir=runs, prefix=".partial-") as partial,
    ):
        record = RunRecord.start(Path(partial) / stem, spec_of(rounds))
        try:
            ids = [add(record, found) for found in rounds]
        finally:
            record.close()
        also(record.folder, ids)
        for lock in record.folder.glob(".*lock"):
            lock.unlink()
        return _renamed(record.folder, runs, stem)


def _renamed(folder: Path, runs: Path, stem: str) -> Path:
    """Move a folder to the first name that nobody has."""
    number = 0
    while True:
        place = runs / (f"{stem}-{number}" if number else stem)
        if not os.path.lexists(place):
            try:
                os.rename(folder, place)
            except FileExistsError:
                pass
            except OSError:
                if not os.path.lexists(place):
                    raise
            else:
                files.sync_folder(runs)
                return place
        number += 1


def add(record: RunRecord, found: Round) -> str:
    """Add the answers of a round to an open record, and say which id its question has there. Answers that it has already are
    not added again. Raises RunError."""
    question = _question(record, found)
    had = {(answer.model, answer.variant) for answer in record.answers if answer.id == question.id}
    for made in found:
        facts = record.model(made.answer.model)
        asked = [*(facts.questions or ())]
        if question.id not in {each.id for each in asked}:
            asked.append(question)
        artifacts = {name: built.as_dict() for name, built in (facts.artifacts or {}).items()}
        if made.artifact:
            artifacts[made.answer.variant] = dataclasses.asdict(made.artifact)
        facts.update(
            {
                "question_set": SET,
                "system": made.system,
                "questions": [dataclasses.asdict(each) for each in asked],
                "artifacts": artifacts,
                "generation": made.generation(),
                "needs": (facts.needs or {}) | {made.answer.variant: made.needed},
            }
        )
        record.note(made.answer.model, made.answer.variant, state="done", load=dataclasses.asdict(made.facts))
    _note_others(record)
    for made in found:
        if made.answerer not in had:
            record.append(dataclasses.replace(made.answer, id=question.id))
    record.finish()
    return question.id


def _note_others(record: RunRecord) -> None:
    """A run's spec has the variants of all its models together; not each model was asked as each of them."""
    for model in record.content.spec.models:
        known = record.model(model.label).variants
        for variant in record.content.spec.variants or ():
            if variant not in known:
                record.note(model.label, variant, state="skipped", reason=_("Nobody asked it."))


def _question(record: RunRecord, found: Round) -> Question:
    """The question under the first id that is free for these answers. One of a question set is that one, with what it
    expects; else what was said up to there tells the id."""
    turns = found[0].turns
    question = _in_sets().get(turns[0]) if len(turns) == 1 else None
    if question is None:
        category = "" if len(turns) == 1 else _("turn {number}", number=len(turns))
        question = Question(hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:8], turns[-1], category)
    asked = {each.id: each.text for facts in record.content.models.values() for each in facts.questions or ()}
    known = {(answer.id, answer.model, answer.variant): answer for answer in record.answers}
    stem, number = question.id, 1
    while True:
        before = [(known.get((question.id, *made.answerer)), made.answer) for made in found]
        if asked.get(question.id, question.text) == question.text and all(
            one is None or _same(one, other) for one, other in before
        ):
            return question
        number += 1
        question = dataclasses.replace(question, id=f"{stem}-{number}")


@functools.cache
def _in_sets() -> dict[str, Question]:
    """The questions of the sets that come with the program, by their texts."""
    found: dict[str, Question] = {}
    for name in question_sets.names():
        try:
            questions = question_sets.load(name).questions
        except QuestionSetError:
            continue  # somebody is writing it
        for question in questions:
            found.setdefault(question.text, question)
    return found


def _same(one: Answer, other: Answer) -> bool:
    return one.prompt_token_ids == other.prompt_token_ids and one.token_ids == other.token_ids
