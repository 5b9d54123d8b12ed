"""From the records of runs to a `Comparison`."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from itrex_chat.comparison import likeness
from itrex_chat.comparison.drafted import drafted
from itrex_chat.comparison.figures import ONLINE
from itrex_chat.comparison.machines import Machines
from itrex_chat.comparison.types import AnswerPair, Batch, Comparison, Figures, ModelComparison
from itrex_chat.engines import engine_of
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.answer import Answer
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.record import ModelQuality
from itrex_chat.ratings import judgements
from itrex_chat.ratings.given import ratings_of, votes_of
from itrex_chat.ratings.judgements import Judged
from itrex_chat.ratings.summary import Rated, summary
from itrex_chat.ratings.votes import Vote, tally
from itrex_chat.runs.content import BuildStatistics, Load, Machine, ModelRun, VariantRun
from itrex_chat.runs.identity import differences
from itrex_chat.runs.record import RunRecord, variants_of
from itrex_chat.settings.quantization import ALGORITHMS
from itrex_chat.settings.questions import Question
from itrex_chat.settings.variant import ORDER

Parts = list[tuple[RunRecord, ModelRun]]  # of one model, in each of the runs


def compare_runs(runs: list[Path]) -> Comparison:
    """The comparison of the runs in these folders. Raises RunError."""
    try:
        return compare([RunRecord.read(run) for run in runs])
    except ItrexChatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise RunError(
            _(
                "{runs}: the record of the run is damaged ({reason}).",
                runs=", ".join(map(str, runs)),
                reason=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            )
        ) from error


def compare(records: list[RunRecord]) -> Comparison:
    """The comparison of all models in the runs. Raises RunError when there is nothing to compare.

    Where two runs have the same variant of a model, the later one's answers
    count. Runs of one model must have asked the same questions.
    """
    quality: dict[str, ModelQuality] = {}
    judged: dict[str, dict[str, list[Judged]]] = {}
    models: dict[str, Parts] = {}
    ratings, commands, votes = [], [], list[Vote]()
    for record in records:
        measured = quality_record.read(record.folder)
        quality |= measured
        ratings += ratings_of(record.folder)
        votes += votes_of(record.folder)
        judged |= judgements.read(record.folder)
        commands += record.content.commands or []
        commands += [found.command for found in measured.values() if found.command]
        for label, facts in record.content.models.items():
            models.setdefault(label, []).append((record, facts))
    machines = Machines(records)
    compared = [
        found
        for label, parts in models.items()
        if (
            found := _compare_model(
                label, parts, quality.get(label), summary(ratings, label), judged.get(label, {}), machines
            )
        )
    ]
    if not compared:
        raise RunError(_nothing(records))
    return Comparison(
        [str(record.folder) for record in records],
        _machine(records[-1]),
        _generation(records),
        compared,
        _absent(records, compared),
        list(dict.fromkeys(commands)),
        tally(votes, [*ORDER, ONLINE]),
    )


def _model_runs(records: list[RunRecord]) -> Iterator[tuple[RunRecord, ModelRun]]:
    for record in records:
        for facts in record.content.models.values():
            yield record, facts


def _generation(records: list[RunRecord]) -> dict[str, Any]:
    """How the answers were generated. Raises KeyError where no model says it, as none does in a damaged record."""
    for _record, facts in _model_runs(records):
        if facts.generation:
            return facts.generation.as_dict()
    raise KeyError("generation")


def _machine(record: RunRecord) -> dict[str, Any]:
    """The machine of a run. Raises KeyError, ValueError where it is not described."""
    Machine.of(record.content.machine).packages["torch"]
    return record.content.machine


def _absent(records: list[RunRecord], compared: list[ModelComparison]) -> list[str]:
    """Models of the runs without any answer; those that nothing is known of come first."""
    waiting = [
        model.label
        for record in records
        for model in record.content.spec.models
        if model.label not in record.content.models
    ]
    found = [model.model for model in compared]
    silent = [label for record in records for label in record.content.models if label not in found]
    return list(dict.fromkeys([*waiting, *silent]))


def _nothing(records: list[RunRecord]) -> str:
    """Why there is nothing to compare."""
    reasons = [
        variant.reason
        for _record, facts in _model_runs(records)
        for variant in facts.variants.values()
        if variant.reason
    ]
    return _(
        "No answers to compare in {runs}.{reasons}",
        runs=", ".join(str(record.folder) for record in records),
        reasons=" " + " ".join(reasons) if reasons else "",
    )


def _compare_model(
    label: str,
    parts: Parts,
    quality: ModelQuality | None,
    ratings: dict[str, list[Rated]],
    judged: dict[str, list[Judged]],
    machines: Machines,
) -> ModelComparison | None:
    _check_identity(label, parts)
    questions, variants = _questions(label, parts), _variants(label, parts)
    answers: dict[tuple[str, str], Answer] = {}
    made: dict[str, dict[str, str]] = {}  # the machine of each answer, by its variant and question
    for record, _facts in parts:
        for answer in record.answers:
            if answer.model == label:
                answers[answer.variant, answer.id] = answer
                made.setdefault(answer.variant, {})[answer.id] = machines.of(record, answer)
    timed = machines.chosen({variant: list(names.values()) for variant, names in made.items()})
    answered = [name for name in (*ORDER, ONLINE) if any(variant == name for variant, _id in answers)]
    if not answered:
        return None
    baseline = answered[0]
    if quality and quality.baseline != baseline:
        quality = None  # measured against another one, before this one had answered
    pairs = {
        name: [
            _pair(question, answers.get((baseline, id)), answers.get((name, id))) for id, question in questions.items()
        ]
        for name in answered[1:]
    }
    built = {name: artifact for _record, facts in parts for name, artifact in (facts.artifacts or {}).items()}
    figures = [
        _figures(
            name,
            variants.get(name) or VariantRun("done"),
            built[name].statistics if name in built else None,
            [answer for (variant, _id), answer in answers.items() if variant == name],
            pairs.get(name),
            {id: question.expected for id, question in questions.items()},
            made.get(name, {}),
            timed.get(name),
            _quantized(label, parts, name),
        )
        for name in (*ORDER, ONLINE)
        if name in variants or name in answered
    ]
    if len({name for names in made.values() for name in names.values()}) < 2:
        figures = [dataclasses.replace(each, machine=None) for each in figures]  # nothing to tell apart
    figures.sort(key=lambda f: (f.variant != baseline, (*ORDER, ONLINE).index(f.variant)))
    load = next((load for name in answered if name in variants and (load := variants[name].load)), None)
    return ModelComparison(
        label,
        baseline,
        load.stored or "?" if load else "?",
        load.origin or {} if load else {},
        next((facts.question_set for _record, facts in parts if facts.question_set), ""),
        figures,
        pairs or {baseline: [_pair(question, answers.get((baseline, id)), None) for id, question in questions.items()]},
        quality,
        ratings,
        judged,
        machines.cpus() if any(each.machine for each in figures) else {},
    )


def _check_identity(label: str, parts: Parts) -> None:
    """Raise RunError where two runs call different models, or one that was asked otherwise, by the same name."""
    first, facts = parts[0]
    for record, other in parts[1:]:
        if found := differences(label, (first.content, facts), (record.content, other)):
            raise RunError(
                _(
                    "{first} and {second} asked {model} differently, or another model of that name ({differences}); "
                    "compare them apart.",
                    first=first.folder,
                    second=record.folder,
                    model=label,
                    differences=", ".join(found),
                )
            )


def _questions(label: str, parts: Parts) -> dict[str, Question]:
    """The questions by their ids. Raises RunError where two runs asked different ones under one id."""
    questions: dict[str, Question] = {}
    for _record, facts in parts:
        for question in facts.questions or ():
            if questions.setdefault(question.id, question).text != question.text:
                raise RunError(
                    _(
                        "The runs asked {model} different questions under the id {id}; compare runs of the same "
                        "question set.",
                        model=label,
                        id=question.id,
                    )
                )
    return questions


def _variants(label: str, parts: Parts) -> dict[str, VariantRun]:
    """How far each variant is that the runs ask, or will when they go on."""
    variants: dict[str, VariantRun] = {}
    for record, facts in parts:
        recipe = record.content.spec.recipe(label)
        asked = variants_of(record.content.spec, recipe) if recipe is not None else ()
        variants = {name: VariantRun("waiting") for name in asked} | variants | facts.variants
    return variants


def _quantized(label: str, parts: Parts, variant: str) -> dict[str, Any]:
    """The algorithm that found a variant's integers, and the budget that it had, as the newest recipe says; nothing where others
    chose them, and for 8 bits. Raises ValueError where a recipe is damaged."""
    recipes = [recipe for record, _facts in parts if (recipe := record.content.spec.recipe(label)) is not None]
    if variant != "int4" or not recipes or not isinstance(recipes[-1].get("quantization"), dict):
        return {}
    values = recipes[-1]["quantization"]
    algorithm, budget = values.get("algorithm", "rtn"), values.get("budget", 0.0)
    if algorithm not in ALGORITHMS or not isinstance(budget, (int, float)):
        raise ValueError("quantization")
    return {} if values.get("integers") == "stored" else {"algorithm": algorithm, "budget": budget or None}


def _pair(question: Question, baseline: Answer | None, answer: Answer | None) -> AnswerPair:
    asked = (question.id, question.text, question.category, question.expected, baseline, answer)
    if baseline is None or answer is None:
        return AnswerPair(*asked, None, None, None, None)
    alike = (likeness.chrf(answer.text, baseline.text), likeness.bleu(answer.text, baseline.text))
    if answer.variant == ONLINE:  # whose tokens are its own
        return AnswerPair(*asked, None, answer.text == baseline.text, *alike)
    shared = likeness.equal_tokens(answer.token_ids, baseline.token_ids)
    return AnswerPair(*asked, shared, answer.token_ids == baseline.token_ids, *alike)


def _figures(
    variant: str,
    run: VariantRun,
    statistics: BuildStatistics | None,
    answers: list[Answer],
    pairs: list[AnswerPair] | None,
    expected: dict[str, str],
    made: dict[str, str],
    machine: str | None,
    quantized: dict[str, Any],
) -> Figures:
    """The figures of a variant; its times are those of answers that this machine gave alone."""
    load = run.load or Load("")
    alone = [answer for answer in answers if not answer.batch and made[answer.id] == machine]
    tpot = _median(answer.plain_tpot for answer in alone)
    guessed = any(
        answer.accepted_tokens and not answer.drafts for answer in alone
    )  # by prompt lookup, with no plain rate
    both = [pair for pair in pairs or () if pair.chrf is not None]
    new, accepted = sum(answer.new_tokens for answer in answers), sum(answer.accepted_tokens for answer in answers)
    checked = [(answer.text, expected[answer.id]) for answer in answers if expected.get(answer.id)]
    return Figures(
        variant=variant,
        state=run.state,
        reason=run.reason or "",
        answers=len(answers),
        ttft=_median(answer.ttft for answer in alone if not answer.cached_tokens),
        tpot=tpot,
        tokens_per_second=1 / tpot if tpot else None,
        prefill_tokens_per_second=_median(answer.prefill_tokens_per_second for answer in alone),
        new_tokens=new,
        accepted_share=accepted / new if accepted else None,
        contention=_median(answer.contention for answer in alone),
        seconds=sum(answer.seconds for answer in answers) if len(alone) == len(answers) else None,
        load_seconds=load.seconds,
        peak_memory=run.peak_memory,
        disk_bytes=load.disk_bytes,
        weight_bytes=load.weight_bytes,
        read_rate=load.weight_bytes / tpot if load.weight_bytes and tpot and not guessed else None,
        storage=load.storage,
        wide_bytes=load.wide_bytes,
        mapped_bytes=load.mapped_bytes,
        bits_per_weight=8 * statistics.bytes_after / statistics.weights if statistics and not load.engine else None,
        kernel=load.kernel,
        cache_format=load.cache_format,
        cache_bytes=load.cache_bytes,
        engine=load.engine,
        build_seconds=_build_seconds(variant, load, statistics),
        identical=sum(bool(pair.identical) for pair in both) if both else None,
        equal_tokens=_median(pair.equal_tokens for pair in both),
        chrf=_mean(pair.chrf for pair in both),
        bleu=_mean(pair.bleu for pair in both),
        stopped=sum(answer.finish_reason == "stop" for answer in answers),
        repetition=_mean(likeness.repetition(answer.token_ids) for answer in answers),
        languages=dict(Counter(likeness.language_of(answer.text) for answer in answers)),
        expected=len(checked),
        matching=sum(likeness.matches(*pair) for pair in checked),
        containing=sum(likeness.contains(*pair) for pair in checked),
        drafted=drafted(answers),
        batch=_batch([answer for answer in answers if answer.batch]),
        machine=machine,
        matrices=statistics.linear if statistics and quantized.get("budget") else None,
        **quantized,
        timed=len(alone) if {*made.values()} != {machine} else None,
    )


def _batch(answers: list[Answer]) -> Batch | None:
    """Answers that were made together."""
    if not answers:
        return None
    most = max(answer.batch or 1 for answer in answers)
    return Batch(len(answers), most, sum(answer.new_tokens for answer in answers), sum(a.seconds for a in answers))


def _build_seconds(variant: str, load: Load, statistics: BuildStatistics | None) -> float | None:
    if load.engine:
        return engine_of(variant).build_seconds(load.engine)
    return statistics.seconds if statistics else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
