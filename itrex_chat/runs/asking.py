"""Asking: the questions of a set put to the variants of models, one job after the other or many at a time, everything kept at once."""

import dataclasses
from pathlib import Path

from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.jobs.event import Prepared
from itrex_chat.jobs.executor import Executor, LocalExecutor
from itrex_chat.jobs.job import MOST_TOGETHER
from itrex_chat.jobs.together import at_once
from itrex_chat.runs.display import Display, SpreadDisplay
from itrex_chat.runs.questioning import Asked, Asking, Part
from itrex_chat.runs.record import RunRecord, place, variants_of
from itrex_chat.runs.spreading import spread
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.questions import QuestionSet
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.shard import Shard
from itrex_chat.settings.variant import NATIVE


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
        executor = executor or LocalExecutor()
        several = at_once(executor) > 1
        display = SpreadDisplay() if several else Display()
        asking = Asking(record, display, question_set, options, batch and min(batch, MOST_TOGETHER))
        asked = [
            Asked(
                label,
                recipe,
                variants_of(spec, recipe.as_dict()),
                Part(shard, number, len(labelled)) if shard else None,
            )
            for number, (label, recipe) in enumerate(labelled)
        ]
        if several:
            spread(asking, executor, asked)
        for model in () if several else asked:
            _one_by_one(asking, executor, model)
        record.finish()
    finally:
        record.close()
    return record


def _one_by_one(asking: Asking, executor: Executor, model: Asked) -> None:
    """Prepare a model and ask its variants."""
    if not (job := asking.preparing(model)):
        return
    try:
        prepared = next(event for event in executor.run(job) if isinstance(event, Prepared))
    except RunError as error:
        asking.unprepared(model, error)
        return
    for following in asking.jobs(model, prepared):
        try:
            for event in executor.run(following.job):
                following.take(event)
        except RunError as error:
            asking.ended(model.label, following.job.variant, error)


def _found_by(quantization: Quantization) -> str:
    """The algorithm and the budget of a quantization, where it is not simply rounded to nearest."""
    algorithm = "" if quantization.effective_algorithm == "rtn" else f" {quantization.algorithm}"
    return algorithm + (f" {quantization.budget:g} bits" if quantization.effective_budget else "")


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
                f"{recipe.name} {quantization.weight_dtype} g{quantization.group_size} head {quantization.head}{_found_by(quantization)}{kept}"
            )
        )
        if label in (other for other, _recipe in labelled):
            raise RunError(_("The model {label} is named twice.", label=label))
        labelled.append((label, recipe))
    return labelled
