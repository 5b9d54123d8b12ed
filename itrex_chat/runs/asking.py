"""Asking: the questions of a set put to the variants of models, one job after the other, everything kept at once."""

import dataclasses
from pathlib import Path

from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.event import Answered, Done, Loaded, OriginalFiles, Pace, Prepared, Text
from itrex_chat.jobs.executor import Executor, LocalExecutor
from itrex_chat.jobs.forecast import Forecast, forecast
from itrex_chat.jobs.job import MOST_TOGETHER, Ask, Prepare
from itrex_chat.runs.display import Display
from itrex_chat.runs.identity import artifact_key, artifact_keys, replaced
from itrex_chat.runs.record import RunRecord, place, variants_of
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.shard import Shard
from itrex_chat.settings.variant import NATIVE, Variant, titled


def ask(
    models: list[Recipe],
    variants: list[str] | None = None,
    question_set: QuestionSet | None = None,
    out: Path | None = None,
    command: str = "",
    engines: tuple[str, ...] = (NATIVE,),
    options: EngineOptions = EngineOptions(),
    executor: Executor | None = None,
    batch: int | None = None,
    shard: Shard | None = None,
) -> RunRecord:
    """Ask each model's variants the questions and return the run's record.

    `variants` None is FP32 and what the recipe quantizes to; `question_set`
    None is the one that fits a model's languages. Answers are kept in `out`
    (a new folder in the cache, if None); an interrupted run of the same models,
    variants and questions goes on where it stopped. A variant that does not
    fit into memory is skipped, and one that nobody named where it takes a large
    download beside what is at hand. `command` is kept to reproduce the run. Each of
    the `engines` computes all of them, ITREX with `options`. `executor` does
    the work (None: processes here). Up to `batch` questions, and 16, are
    answered at a time, each as it is alone; a run may go on with another batch.
    With a `shard`, the record is a part of the run, for `runs/merging.py` to join with the others.
    Raises ItrexChatError.
    """
    labelled = labels(models)
    spec: dict = {
        "models": [{"label": label, "recipe": recipe.as_dict()} for label, recipe in labelled],
        "variants": variants,
        "questions": dataclasses.asdict(question_set) if question_set else None,
    }
    if tuple(engines) != (NATIVE,):
        spec["engines"] = list(engines)
    if options.own_template:
        spec["own_template"] = True
    if shard:
        spec["shard"] = str(shard)
    record = RunRecord.start(out or place(cache_home() / "runs", spec), spec)
    if command and command not in (record.content.commands or ()):
        record.content.commands = [*(record.content.commands or ()), command]
    try:
        asking = _Asking(
            record, Display(), executor or LocalExecutor(), question_set, options, batch and min(batch, MOST_TOGETHER)
        )
        for number, (label, recipe) in enumerate(labelled):
            part = Part(shard, number, len(labelled)) if shard else None
            asking.model(label, recipe, variants_of(spec, recipe.as_dict()), part)
        record.finish()
    finally:
        record.close()
    return record


def labels(models: list[Recipe]) -> list[tuple[str, Recipe]]:
    """A name for each model in the run; two of one name are told apart by their quantization."""
    names = [recipe.name for recipe in models]
    labelled: list[tuple[str, Recipe]] = []
    for recipe in models:
        quantization, formats = recipe.quantization, recipe.kv_cache
        kept = "" if formats.format == "fp32" else f" kv {formats.format}"
        label = (
            recipe.name
            if names.count(recipe.name) == 1
            else (
                f"{recipe.name} {quantization.weight_dtype} g{quantization.group_size} head {quantization.head}{kept}"
            )
        )
        if label in (other for other, _recipe in labelled):
            raise RunError(_("The model {label} is named twice.", label=label))
        labelled.append((label, recipe))
    return labelled


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
class _Asking:
    """What the models of a run share. The record is written here and nowhere else."""

    record: RunRecord
    display: Display
    executor: Executor
    question_set: QuestionSet | None
    options: EngineOptions
    batch: int | None

    def model(self, label: str, recipe: Recipe, variants: list[str], part: Part | None = None) -> None:
        """Prepare a model and ask its variants, of a shard's questions those in its `part`."""
        if part and (part.empty or (self.question_set and not part.of(self.question_set).questions)):
            return
        candidates = (
            [self.question_set]
            if self.question_set
            else [question_sets.load(name) for name in question_sets.DEFAULT.values()]
        )
        batch = self.batch and min(self.batch, max(len(candidate.questions) for candidate in candidates))
        tokens = recipe.generation.max_new_tokens + _longest_prompt(candidates)
        named = bool(self.record.content.spec.variants)
        job = Prepare(
            recipe=recipe, variants=tuple(variants), tokens=tokens, batch=batch, options=self.options, named=named
        )
        try:
            prepared = next(event for event in self.executor.run(job) if isinstance(event, Prepared))
        except RunError as error:
            for variant in variants:
                self._failed(label, variant, str(error))
            return
        self._check_same_model(label, prepared)
        asked = self.question_set or question_sets.default_for(prepared.languages)
        asked = part.of(asked) if part else asked
        if not asked.questions:
            return
        self.record.model(label).update(
            {
                "question_set": asked.name,
                "system": asked.system,
                "questions": [dataclasses.asdict(question) for question in asked.questions],
                "languages": list(prepared.languages),
                "artifacts": {name: dataclasses.asdict(facts) for name, facts in prepared.artifacts.items()},
                "generation": dataclasses.asdict(recipe.generation),
                "needs": prepared.needs,
            }
        )
        self.record.save()
        self.display.model(label, asked.name, len(asked.questions))
        for variant in sorted(variants, key=prepared.streamed.__contains__):  # what takes long last
            done = self.record.answered(label, variant)
            remaining = tuple(question for question in asked.questions if question.id not in done)
            if not remaining:
                self.record.note(label, variant, state="done")
            elif problem := prepared.problems.get(variant):
                self._failed(label, variant, problem)
            elif reason := prepared.left_out.get(variant):
                self._skipped(label, variant, reason)
            else:
                self._variant(label, recipe, variant, asked, remaining, prepared)

    def _check_same_model(self, label: str, prepared: Prepared) -> None:
        """Raise RunError where the model was replaced since this run began: its answers would be of two models."""
        if not any(answer.model == label for answer in self.record.answers):
            return
        before = artifact_keys(self.record.model(label))
        now = {name: artifact_key(facts.folder) for name, facts in prepared.artifacts.items()}
        if any(before[name] != now[name] for name in before.keys() & now.keys()):
            raise self._another_model(label)
        self._check_same_files(label, prepared.files)

    def _check_same_files(self, label: str, files: OriginalFiles) -> None:
        """Raise RunError where these are not the files that answers of the model in this run are of."""
        answered = {answer.variant for answer in self.record.answers if answer.model == label}
        loads = [facts.load for name, facts in self.record.model(label).variants.items() if name in answered]
        if any(load and replaced(load.files, files) for load in loads):
            raise self._another_model(label)

    def _another_model(self, label: str) -> RunError:
        return RunError(
            _(
                "{model} is another model than the one that {folder} has answers of: its files have changed. "
                "Name another folder with --out.",
                model=label,
                folder=self.record.folder,
            )
        )

    def _variant(
        self,
        label: str,
        recipe: Recipe,
        variant: str,
        asked: QuestionSet,
        remaining: tuple[Question, ...],
        prepared: Prepared,
    ) -> None:
        """Ask a variant what it has not answered yet."""
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
        try:
            self._follow(job, len(asked.questions) - len(remaining), len(asked.questions), prepared.files)
        except MemoryShortage as shortage:
            self._skipped(label, variant, str(shortage))
        except RunError as error:
            self._failed(label, variant, str(error))

    def _follow(self, job: Ask, number: int, count: int, files: OriginalFiles) -> None:
        """Keep and show what a job tells; `number` of the `count` questions were answered before, by a model of these
        `files`. Raises RunError where it is another model now."""
        questions = {question.id: question for question in job.questions}
        waiting = iter(job.questions)
        made_on: str | None = None

        def announce() -> None:
            if self.display.has_bar(job.batch):
                self.display.several(job.batch, number, count)
            elif question := next(waiting, None):
                self.display.question(question, number + 1, count)

        for event in self.executor.run(job):
            if isinstance(event, Loaded):
                if replaced(files, event.facts.files):
                    raise self._another_model(job.label)
                self._check_same_files(job.label, event.facts.files)
                made_on = self.record.made_on(event.machine)
                self.record.note(job.label, job.variant, state="asking", load=dataclasses.asdict(event.facts))
                self.display.loaded(job.label, job.variant, event.facts)
                if event.pace:
                    expected = self._forecast(job, event, event.pace)
                    self.display.streams(event.facts, event.pace, expected, len(job.questions))
                announce()
            elif isinstance(event, Text):
                self.display.text(event.text)
            elif isinstance(event, Answered):
                self.record.append(dataclasses.replace(event.answer, machine=made_on))
                number += 1
                self.display.answer(questions[event.answer.id], number, count, event.answer)
                announce()
            elif isinstance(event, Done):
                self.record.note(job.label, job.variant, state="done", peak_memory=event.peak_memory)

    def _forecast(self, job: Ask, loaded: Loaded, pace: Pace) -> Forecast:
        """What answering takes, by the answers of another variant to the same questions where there are some."""
        wanted = [question.id for question in job.questions]
        known = {
            answer.id: answer.new_tokens + (answer.finish_reason == "stop")
            for answer in self.record.answers
            if answer.model == job.label
        }
        tokens = [known.get(id) or job.generation.max_new_tokens for id in wanted]
        return forecast(loaded.prompts, tokens, job.batch, loaded.facts, pace, known.keys() >= set(wanted))

    def _skipped(self, label: str, variant: str, reason: str) -> None:
        self.record.note(label, variant, state="skipped", reason=reason)
        self.display.notice(f"itrex_chat: {reason}")

    def _failed(self, label: str, variant: str, reason: str) -> None:
        self.record.note(label, variant, state="failed", reason=reason)
        self.display.notice(f"\nitrex_chat: {label} {titled(variant)}: {reason}")


def _longest_prompt(sets: list[QuestionSet]) -> int:
    """More tokens than any prompt of the sets has, for planning memory: two for a character, and the frame."""
    return 128 + 2 * max(len(question.text) + len(chosen.system) for chosen in sets for question in chosen.questions)
