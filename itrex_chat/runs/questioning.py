"""What is asked of a model, and what is kept of what its variants answer."""

import dataclasses
from collections.abc import Iterator

from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.event import Answered, Done, Event, Loaded, OriginalFiles, Pace, Prepared, Text
from itrex_chat.jobs.forecast import Forecast, forecast
from itrex_chat.jobs.job import Ask, Prepare
from itrex_chat.runs.display import Display
from itrex_chat.runs.identity import artifact_key, artifact_keys, replaced
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.shard import Shard
from itrex_chat.settings.variant import Variant, titled


@dataclasses.dataclass(frozen=True)
class Part:
    """What a shard has of one of the run's models, by its `index` among so many `models`."""

    shard: Shard
    index: int
    models: int

    @property
    def empty(self) -> bool:
        return not self.shard.has_model(self.index, self.models)

    def of(self, asked: QuestionSet) -> QuestionSet:
        """The set with the questions that belong to the shard."""
        return dataclasses.replace(
            asked, questions=tuple(self.shard.of_model(self.index, self.models, asked.questions))
        )


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model of the run: its name in it, its recipe and variants, and in a shard which of the questions it is asked."""

    label: str
    recipe: Recipe
    variants: list[str]
    part: Part | None = None


@dataclasses.dataclass(frozen=True)
class Asking:
    """What the models of a run share. The record is written here and nowhere else."""

    record: RunRecord
    display: Display
    question_set: QuestionSet | None
    options: EngineOptions
    batch: int | None

    def preparing(self, model: Asked) -> Prepare | None:
        """The job that prepares a model; None where a shard asks it nothing."""
        part, recipe = model.part, model.recipe
        if part and (part.empty or (self.question_set and not part.of(self.question_set).questions)):
            return None
        candidates = (
            [self.question_set]
            if self.question_set
            else [question_sets.load(name) for name in question_sets.DEFAULT.values()]
        )
        batch = self.batch and min(self.batch, max(len(candidate.questions) for candidate in candidates))
        tokens = recipe.generation.max_new_tokens + _longest_prompt(candidates)
        named = bool(self.record.content.spec.variants)
        return Prepare(
            recipe=recipe, variants=tuple(model.variants), tokens=tokens, batch=batch, options=self.options, named=named
        )

    def unprepared(self, model: Asked, error: RunError) -> None:
        """Keep and show that a model could not be prepared."""
        for variant in model.variants:
            self.failed(model.label, variant, str(error))

    def jobs(self, model: Asked, prepared: Prepared) -> Iterator["Following"]:
        """What is to be asked of a model that is prepared: a variant after the other, what it has not answered yet."""
        label, recipe, part = model.label, model.recipe, model.part
        self._check_same_model(label, prepared)
        asked = self.question_set or question_sets.default_for(prepared.languages)
        asked = part.of(asked) if part else asked
        if not asked.questions:
            return
        self.record.model(label).update(
            {
                "question_set": asked.name,
                "system": asked.system,
                "languages": list(prepared.languages),
                "artifacts": {name: dataclasses.asdict(facts) for name, facts in prepared.artifacts.items()},
                "generation": dataclasses.asdict(recipe.generation),
                "needs": prepared.needs,
            }
        )
        self.record.model(label).questions = list(asked.questions)
        self.record.save_soon()
        self.display.model(label, asked.name, len(asked.questions))
        for variant in sorted(model.variants, key=prepared.streamed.__contains__):  # what takes long last
            done = self.record.answered(label, variant)
            remaining = tuple(question for question in asked.questions if question.id not in done)
            if not remaining:
                self.record.note(label, variant, state="done")
            elif problem := prepared.problems.get(variant):
                self.failed(label, variant, problem)
            elif reason := prepared.left_out.get(variant):
                self.skipped(label, variant, reason)
            else:
                job = self._ask(label, recipe, variant, asked, remaining, prepared)
                yield Following(self, job, len(asked.questions) - len(remaining), len(asked.questions), prepared.files)

    def _check_same_model(self, label: str, prepared: Prepared) -> None:
        """Raise RunError where the model was replaced since this run began: its answers would be of two models."""
        if not any(answer.model == label for answer in self.record.answers):
            return
        before = artifact_keys(self.record.model(label))
        now = {name: artifact_key(facts.folder) for name, facts in prepared.artifacts.items()}
        if any(before[name] != now[name] for name in before.keys() & now.keys()):
            raise self.another_model(label)
        self.check_same_files(label, prepared.files)

    def check_same_files(self, label: str, files: OriginalFiles) -> None:
        """Raise RunError where these are not the files that answers of the model in this run are of."""
        answered = {answer.variant for answer in self.record.answers if answer.model == label}
        loads = [facts.load for name, facts in self.record.model(label).variants.items() if name in answered]
        if any(load and replaced(load.files, files) for load in loads):
            raise self.another_model(label)

    def another_model(self, label: str) -> RunError:
        return RunError(
            _(
                "{model} is another model than the one that {folder} has answers of: its files have changed. "
                "Name another folder with --out.",
                model=label,
                folder=self.record.folder,
            )
        )

    def _ask(
        self,
        label: str,
        recipe: Recipe,
        variant: str,
        asked: QuestionSet,
        remaining: tuple[Question, ...],
        prepared: Prepared,
    ) -> Ask:
        """The job that asks a variant what it has not answered yet."""
        job = Ask(
            recipe=recipe,
            label=label,
            variant=variant,
            questions=remaining,
            system=asked.system,
            generation=recipe.generation,
            needs=prepared.needs,
            options=self.options,
            batch=min(prepared.batches.get(variant, 1), len(remaining)),
        )
        needed, limit = prepared.needs.get(variant, 0), int(recipe.fp32.memory * 1e9)
        if not Variant.parse(variant).bits and 0 < limit < needed:
            self.display.notice(
                _(
                    "{variant} takes {needed} at least, which is more than the {limit} of fp32.memory.",
                    variant=titled(variant),
                    needed=readable(needed),
                    limit=readable(limit),
                )
            )
        return job

    def ended(self, label: str, variant: str, error: RunError) -> None:
        """Keep and show why a variant does not go on."""
        if isinstance(error, MemoryShortage):
            self.skipped(label, variant, str(error))
        else:
            self.failed(label, variant, str(error))

    def skipped(self, label: str, variant: str, reason: str) -> None:
        self.record.note(label, variant, state="skipped", reason=reason)
        self.display.notice(f"itrex_chat: {reason}")

    def failed(self, label: str, variant: str, reason: str) -> None:
        self.record.note(label, variant, state="failed", reason=reason)
        self.display.notice(f"\nitrex_chat: {label} {titled(variant)}: {reason}")


class Following:
    """What is kept and shown of a variant while a job asks it; `number` of the `count` questions were answered before, by a
    model of these `files`."""

    def __init__(self, asking: Asking, job: Ask, number: int, count: int, files: OriginalFiles):
        self.job, self.number, self.count, self.files = job, number, count, files
        self._asking = asking
        self._questions = {question.id: question for question in job.questions}
        self._made_on: str | None = None

    def take(self, event: Event) -> None:
        """Keep and show what the job tells. Raises RunError where it is another model now."""
        asking, job = self._asking, self.job
        if isinstance(event, Loaded):
            if replaced(self.files, event.facts.files):
                raise asking.another_model(job.label)
            asking.check_same_files(job.label, event.facts.files)
            self._made_on = asking.record.made_on(event.machine)
            asking.record.note(job.label, job.variant, state="asking", load=dataclasses.asdict(event.facts))
            asking.display.loaded(job.label, job.variant, event.facts)
            if event.pace:
                expected = self._forecast(event, event.pace)
                asking.display.streams(event.facts, event.pace, expected, len(job.questions))
            self._announce()
        elif isinstance(event, Text):
            asking.display.text(event.text)
        elif isinstance(event, Answered):
            asking.record.append(dataclasses.replace(event.answer, machine=self._made_on))
            self.number += 1
            question = self._questions.pop(event.answer.id)
            asking.display.answer(question, self.number, self.count, event.answer)
            self._announce()
        elif isinstance(event, Done):
            self._done(event.peak_memory)

    def _done(self, peak_memory: int) -> None:
        self._asking.record.note(self.job.label, self.job.variant, state="done", peak_memory=peak_memory)

    def _announce(self) -> None:
        """Show what is answered next."""
        display = self._asking.display
        if display.has_bar(self.job.batch):
            display.several(self.job.batch, self.number, self.count)
        elif question := next(iter(self._questions.values()), None):
            display.question(question, self.number + 1, self.count)

    def _forecast(self, loaded: Loaded, pace: Pace) -> Forecast:
        """What answering takes, by the answers of another variant to the same questions where there are some."""
        job = self.job
        wanted = [question.id for question in job.questions]
        known = {
            answer.id: answer.new_tokens + (answer.finish_reason == "stop")
            for answer in self._asking.record.answers
            if answer.model == job.label
        }
        tokens = [known.get(id) or job.generation.max_new_tokens for id in wanted]
        return forecast(loaded.prompts, tokens, job.batch, loaded.facts, pace, known.keys() >= set(wanted))


def _longest_prompt(sets: list[QuestionSet]) -> int:
    """More tokens than any prompt of the sets has, for planning memory: two for a character, and the frame."""
    return 128 + 2 * max(len(question.text) + len(chosen.system) for chosen in sets for question in chosen.questions)
