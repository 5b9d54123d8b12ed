"""Ask the same questions to the variants of models.

python -m itrex_chat.ask --model chatglm3-6b --variants fp32,int4
"""

import dataclasses
import sys
from pathlib import Path

from itrex_chat import engines as engine_names
from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.engines import NATIVE, EngineOptions, titled
from itrex_chat.foundation import command_line, machine
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.protocol import work
from itrex_chat.runs.display import Display
from itrex_chat.runs.record import RunRecord, place, variants_of
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.questions import QuestionSet
from itrex_chat.settings.recipe import Recipe

VARIANTS = ("fp32", "bf16", "int4", "int8")


def ask(
    models: list[Recipe],
    variants: list[str] | None = None,
    question_set: QuestionSet | None = None,
    out: Path | None = None,
    command: str = "",
    engines: list[str] = (NATIVE,),
    options: EngineOptions = EngineOptions(),
) -> RunRecord:
    """Ask each model's variants the questions and return the run's record.

    `variants` None is FP32 and what the recipe quantizes to; `question_set`
    None is the one that fits a model's languages. Answers are kept in `out`
    (a new folder in the cache, if None); an interrupted run of the same models,
    variants and questions goes on where it stopped. A variant that does not
    fit into memory is skipped. `command` is kept to reproduce the run. Each of
    the `engines` computes all of them, ITREX with `options`. Raises
    ItrexChatError.
    """
    labelled = labels(models)
    spec = {
        "models": [{"label": label, "recipe": recipe.as_dict()} for label, recipe in labelled],
        "variants": variants,
        "questions": dataclasses.asdict(question_set) if question_set else None,
    }
    if tuple(engines) != (NATIVE,):
        spec["engines"] = list(engines)
    if options.own_template:
        spec["own_template"] = True
    record = RunRecord.start(out or place(cache_home() / "runs", spec), spec)
    if command and command not in (record.content.commands or ()):
        record.content.commands = [*(record.content.commands or ()), command]
    display = Display()
    try:
        for label, recipe in labelled:
            _ask_model(record, display, label, recipe, variants_of(spec, recipe.as_dict()), question_set, options)
        states = [facts.state for model in record.content.models.values() for facts in model.variants.values()]
        record.content.complete = all(state in ("done", "skipped") for state in states)
        record.save()
    finally:
        record.close()
    return record


def labels(models: list[Recipe]) -> list[tuple[str, Recipe]]:
    """A name for each model in the run; two of one name are told apart by their quantization."""
    names = [recipe.name for recipe in models]
    labelled = []
    for recipe in models:
        quantization = recipe.quantization
        label = (
            recipe.name
            if names.count(recipe.name) == 1
            else (f"{recipe.name} {quantization.weight_dtype} g{quantization.group_size} head {quantization.head}")
        )
        if label in (other for other, _recipe in labelled):
            raise RunError(_("The model {label} is named twice.", label=label))
        labelled.append((label, recipe))
    return labelled


def _ask_model(
    record: RunRecord,
    display: Display,
    label: str,
    recipe: Recipe,
    variants: list[str],
    question_set: QuestionSet | None,
    options: EngineOptions,
) -> None:
    candidates = (
        [question_set] if question_set else [question_sets.load(name) for name in question_sets.DEFAULT.values()]
    )
    tokens = recipe.generation.max_new_tokens + _longest_prompt(candidates)
    try:
        prepared = next(
            event
            for event in work(
                {
                    "task": "prepare",
                    "recipe": recipe.as_dict(),
                    "variants": variants,
                    "tokens": tokens,
                    "options": dataclasses.asdict(options),
                }
            )
            if event["event"] == "prepared"
        )
    except RunError as error:
        for variant in variants:
            _failed(record, display, label, variant, str(error))
        return
    asked = question_set or question_sets.default_for(tuple(prepared["languages"]))
    record.model(label).update(
        {
            "question_set": asked.name,
            "system": asked.system,
            "questions": [dataclasses.asdict(question) for question in asked.questions],
            "languages": prepared["languages"],
            "artifacts": prepared["artifacts"],
            "generation": dataclasses.asdict(recipe.generation),
            "needs": prepared["needs"],
        }
    )
    record.save()
    display.model(label, asked.name, len(asked.questions))
    for variant in variants:
        if problem := prepared["problems"].get(variant):
            _failed(record, display, label, variant, problem)
        else:
            _ask_variant(record, display, label, recipe, variant, asked, prepared["needs"], options)


def _longest_prompt(sets: list[QuestionSet]) -> int:
    """More tokens than any prompt of the sets has, for planning memory: two for a character, and the frame."""
    return 128 + 2 * max(len(question.text) + len(chosen.system) for chosen in sets for question in chosen.questions)


def _ask_variant(
    record: RunRecord,
    display: Display,
    label: str,
    recipe: Recipe,
    variant: str,
    asked: QuestionSet,
    needs: dict[str, int],
    options: EngineOptions,
) -> None:
    done = record.answered(label, variant)
    remaining = [question for question in asked.questions if question.id not in done]
    if not remaining:
        record.note(label, variant, state="done")
        return
    if reason := _too_large(label, variant, needs):
        record.note(label, variant, state="skipped", reason=reason)
        display.notice(f"itrex_chat: {reason}")
        return
    job = {
        "task": "ask",
        "recipe": recipe.as_dict(),
        "variant": variant,
        "system": asked.system,
        "questions": [dataclasses.asdict(question) for question in remaining],
        "generation": dataclasses.asdict(recipe.generation),
        "options": dataclasses.asdict(options),
    }
    count, number = len(asked.questions), len(done)
    try:
        for event in work(job):
            if event["event"] == "loaded":
                facts = {name: value for name, value in event.items() if name != "event"}
                record.note(label, variant, state="asking", load=facts)
                display.loaded(label, variant, facts)
                display.question(remaining[0], number + 1, count)
            elif event["event"] == "text":
                display.text(event["text"])
            elif event["event"] == "answer":
                answer = {name: value for name, value in event.items() if name != "event"}
                record.append(Answer(model=label, variant=variant, **answer))
                question = remaining[number - len(done)]
                number += 1
                display.answer(question, number, count, record.answers[-1])
                if number < count:
                    display.question(remaining[number - len(done)], number + 1, count)
            elif event["event"] == "done":
                record.note(label, variant, state="done", peak_memory=event["peak_memory"])
    except RunError as error:
        _failed(record, display, label, variant, str(error))


def _failed(record: RunRecord, display: Display, label: str, variant: str, reason: str) -> None:
    record.note(label, variant, state="failed", reason=reason)
    display.notice(f"\nitrex_chat: {label} {titled(variant)}: {reason}")


def _too_large(label: str, variant: str, needs: dict[str, int]) -> str | None:
    """Why a variant is not loaded, with the numbers and what would fit."""
    free = machine.available_memory()
    if needs[variant] <= free:
        return None
    fitting = [f"{titled(name)} ({readable(size)})" for name, size in needs.items() if size <= free]
    advice = _("What would fit: {names}.", names=", ".join(fitting)) if fitting else _("No variant of it would fit.")
    return _(
        "{label} {variant} needs {needed} of memory, but {free} is left: skipped. {advice}",
        label=label,
        variant=titled(variant),
        needed=readable(needs[variant]),
        free=readable(free),
        advice=advice,
    )


def cached_models(settings: list[str]) -> list[Recipe]:
    """The recipes of all artifacts in the cache, the newest of each kind, or the embedded default's."""
    artifacts = sorted(ArtifactStore().whole(), key=lambda artifact: artifact.manifest["created"])
    newest = {(artifact.name, *artifact.manifest["content"].values()): artifact for artifact in artifacts}
    found = [recipes.from_dict(artifact.manifest["recipe"]) for artifact in newest.values()]
    return [recipes.overridden(recipe, settings) for recipe in found] or [recipes.load(recipes.EMBEDDED, settings)]


def command(arguments) -> int:
    settings = command_line.settings(arguments)
    if arguments.max_new_tokens:
        settings += ["generation.max_new_tokens", str(arguments.max_new_tokens)]
    models = [recipes.load(name, settings) for name in arguments.model] or cached_models(settings)
    variants = arguments.variants and list(dict.fromkeys(name for name in arguments.variants.split(",") if name))
    if variants == []:
        raise RunError(_("--variants names no variant; choose some of: {names}.", names=", ".join(VARIANTS)))
    for name in variants or ():
        one_of("--variants", name, VARIANTS)
    asked = question_sets.load(arguments.prompts) if arguments.prompts else None
    engines, options = engine_names.chosen(arguments)
    record = ask(models, variants, asked, arguments.out, command_line.invocation("ask"), engines, options)
    states = [facts.state for model in record.content.models.values() for facts in model.variants.values()]
    print("\n" + _("{count} answers in {folder}", count=len(record.answers), folder=record.folder))
    if record.answers:
        print(_("Compare them: python -m itrex_chat.compare {folder}", folder=record.folder))
    return 0 if "failed" not in states and "done" in states else command_line.FAILED


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("ask", _("Ask the same questions to the FP32 and the INT4 variant of models."))
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="NAME|FOLDER|FILE",
        help=_("models to ask; default: all in the cache, or {default} if it is empty", default=recipes.EMBEDDED),
    )
    parser.add_argument(
        "--variants",
        metavar="LIST",
        help=_(
            "variants with commas between them, of {names}; default: fp32 and the quantized one",
            names=", ".join(VARIANTS),
        ),
    )
    engine_names.add_options(parser)
    parser.add_argument(
        "--prompts",
        metavar="NAME|FILE",
        help=_(
            "a question set ({names}) or a YAML file; default: one that fits the model's languages",
            names=", ".join(question_sets.names()),
        ),
    )
    parser.add_argument(
        "--max-new-tokens", type=command_line.positive, metavar="N", help=_("at most this many tokens an answer")
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=_("where to keep the run; default: in the cache"))
    command_line.add_settings(parser)
    return command_line.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
