"""Comparing variants: what the answers and figures of runs say about quantization.

`compare` turns run records into a `Comparison`, the one type that the writers
(`markdown.py`, `tables.py`, `terminal.py`) take.
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median

from itrex_chat.comparison import metrics
from itrex_chat.comparison.metrics import chrf, equal_tokens
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.record import ModelQuality
from itrex_chat.ratings import judgements as judgements
from itrex_chat.ratings.judgements import Judged
from itrex_chat.ratings.stored import ratings_of
from itrex_chat.ratings.summary import Rated, summary
from itrex_chat.runs.record import RunRecord, variants_of
from itrex_chat.settings.variant import ORDER

ONLINE = "online"  # another model's answers, from an endpoint: a column to read beside the variants
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class AnswerPair:
    """One question, answered by a variant and by the baseline (None where one has not answered)."""

    id: str
    question: str
    category: str
    expected: str
    baseline: dict | None
    answer: dict | None
    equal_tokens: int | None  # the index of the first divergent token
    identical: bool | None
    chrf: float | None
    bleu: float | None


@dataclass(frozen=True)
class Figures:
    """One variant's figures over the questions that it and the baseline answered; seconds and bytes."""

    variant: str
    state: str
    reason: str
    answers: int
    ttft: float | None  # median
    tpot: float | None  # median
    tokens_per_second: float | None  # of the median tpot
    prefill_tokens_per_second: float | None  # median
    new_tokens: int
    accepted_share: float | None  # of the new tokens, those that prompt lookup guessed
    seconds: float
    load_seconds: float | None
    build_seconds: float | None  # quantizing, when that was done
    peak_memory: int | None
    disk_bytes: int | None
    weight_bytes: int | None
    bits_per_weight: float | None
    kernel: str
    engine: dict | None = None  # what another engine's record says: versions, its log, how its integers compare
    identical: int | None = None  # answers equal to the baseline's
    equal_tokens: float | None = None  # median
    chrf: float | None = None  # mean
    bleu: float | None = None  # mean
    stopped: int = 0  # answers that the model ended itself
    repetition: float | None = None  # mean share of repeated runs of tokens
    languages: dict[str, int] = dataclasses.field(default_factory=dict)  # answers in each language
    expected: int = 0  # answers to questions that say what is expected
    matching: int = 0  # those of them that are just that
    containing: int = 0  # those that have it in them


@dataclass(frozen=True)
class ModelComparison:
    """One model: its variants' figures, the most precise first, and the answers of each beside the baseline's."""

    model: str
    baseline: str
    stored: str  # how the weights were stored before
    origin: dict
    question_set: str
    figures: list[Figures]
    pairs: dict[str, list[AnswerPair]]
    quality: ModelQuality | None = None  # teacher-forced figures, where they were measured
    ratings: dict[str, list[Rated]] = dataclasses.field(default_factory=dict)  # by people, for each variant
    judged: dict[str, Judged] = dataclasses.field(default_factory=dict)  # by another model, for each variant

    @property
    def weights_were_quantized(self) -> bool:
        """Whether the "full precision" weights are dequantized ones, which makes INT4 look better than it is."""
        return self.stored.startswith("GGUF") and self.stored.removeprefix("GGUF ") not in ("F32", "F16", "BF16")

    def ratio(self, figures: Figures, field: str) -> float | None:
        """A figure divided by the baseline's."""
        value, base = getattr(figures, field), getattr(self.figures[0], field)
        return value / base if value and base and figures.variant != self.baseline else None


@dataclass(frozen=True)
class Comparison:
    """All models of the runs compared."""

    runs: list[str]
    machine: dict
    generation: dict
    models: list[ModelComparison]
    absent: list[str]  # models of the runs without any answer
    commands: list[str]  # that make these runs again

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return {"schema": SCHEMA_VERSION, **dataclasses.asdict(self)}


def compare(records: list[RunRecord]) -> Comparison:
    """The comparison of all models in the runs. Raises RunError when there is nothing to compare.

    Where two runs have the same variant of a model, the later one's answers
    count. Runs of one model must have asked the same questions.
    """
    models, quality, judged, ratings, absent, commands = {}, {}, {}, [], [], []
    for record in records:
        measured = quality_record.read(record.folder)
        quality |= measured
        ratings += ratings_of(record.folder)
        judged |= judgements.read(record.folder)
        absent += [
            model["label"]
            for model in record.content["spec"].get("models", ())
            if model["label"] not in record.content["models"]
        ]
        commands += [
            *record.content.get("commands", ()),
            *(found.command for found in measured.values() if found.command),
        ]
        for label, facts in record.content["models"].items():
            models.setdefault(label, []).append((record, facts))
    compared = [
        found
        for label, parts in models.items()
        if (found := _compare_model(label, parts, quality.get(label), summary(ratings, label), judged.get(label, {})))
    ]
    absent += [label for label in models if label not in (model.model for model in compared)]
    if not compared:
        reasons = [
            facts["reason"]
            for record in records
            for model in record.content["models"].values()
            for facts in model["variants"].values()
            if facts.get("reason")
        ]
        raise RunError(
            _(
                "No answers to compare in {runs}.{reasons}",
                runs=", ".join(str(r.folder) for r in records),
                reasons=" " + " ".join(reasons) if reasons else "",
            )
        )
    generation = next(
        model["generation"]
        for record in records
        for model in record.content["models"].values()
        if "generation" in model
    )
    return Comparison(
        [str(record.folder) for record in records],
        records[-1].content["machine"],
        generation,
        compared,
        list(dict.fromkeys(absent)),
        list(dict.fromkeys(commands)),
    )


def _compare_model(
    label: str,
    parts: list[tuple[RunRecord, dict]],
    quality: ModelQuality | None,
    ratings: dict[str, list[Rated]],
    judged: dict[str, Judged],
) -> ModelComparison | None:
    questions, answers, variants, artifacts = {}, {}, {}, {}
    for record, facts in parts:
        for question in facts.get("questions", ()):
            known = questions.setdefault(question["id"], question)
            if known["text"] != question["text"]:
                raise RunError(
                    _(
                        "The runs asked {model} different questions under the id {id}; compare runs of the same "
                        "question set.",
                        model=label,
                        id=question["id"],
                    )
                )
        variants = {name: {"state": "waiting"} for name in _asked(record, label)} | variants | facts["variants"]
        artifacts |= facts.get("artifacts", {})
        answers |= {(answer["variant"], answer["id"]): answer for answer in record.answers if answer["model"] == label}
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
    loads = [variants[name]["load"] for name in answered if "load" in variants.get(name, {})]
    figures = [
        _figures(
            name,
            variants.get(name, {}),
            artifacts.get(name),
            [answer for (variant, _id), answer in answers.items() if variant == name],
            pairs.get(name),
            {id: question["expected"] for id, question in questions.items()},
        )
        for name in (*ORDER, ONLINE)
        if name in variants or name in answered
    ]
    figures.sort(key=lambda f: (f.variant != baseline, (*ORDER, ONLINE).index(f.variant)))
    return ModelComparison(
        label,
        baseline,
        loads[0]["stored"] if loads else "?",
        loads[0]["origin"] if loads else {},
        next(facts["question_set"] for _record, facts in parts if "question_set" in facts),
        figures,
        pairs or {baseline: [_pair(question, answers.get((baseline, id)), None) for id, question in questions.items()]},
        quality,
        ratings,
        judged,
    )


def _asked(record: RunRecord, label: str) -> list[str]:
    """The variants that the run asks, or will when it goes on."""
    spec = record.content["spec"]
    recipe = next((model["recipe"] for model in spec.get("models", ()) if model["label"] == label), None)
    if recipe is None:
        return []
    return variants_of(spec, recipe)


def _pair(question: dict, baseline: dict | None, answer: dict | None) -> AnswerPair:
    both = baseline is not None and answer is not None
    tokens = both and answer["variant"] != ONLINE  # whose tokens are its own
    return AnswerPair(
        question["id"],
        question["text"],
        question["category"],
        question["expected"],
        baseline,
        answer,
        equal_tokens(answer["token_ids"], baseline["token_ids"]) if tokens else None,
        answer["token_ids"] == baseline["token_ids"]
        if tokens
        else answer["text"] == baseline["text"]
        if both
        else None,
        chrf(answer["text"], baseline["text"]) if both else None,
        metrics.bleu(answer["text"], baseline["text"]) if both else None,
    )


def _figures(
    variant: str,
    facts: dict,
    artifact: dict | None,
    answers: list[dict],
    pairs: list[AnswerPair] | None,
    expected: dict[str, str],
) -> Figures:
    load = facts.get("load", {})
    tpot = _median(answer["tpot"] for answer in answers)
    both = [pair for pair in pairs or () if pair.chrf is not None]
    new, accepted = (sum(answer.get(name, 0) for answer in answers) for name in ("new_tokens", "accepted_tokens"))
    checked = [(answer["text"], expected[answer["id"]]) for answer in answers if expected.get(answer["id"])]
    statistics = (artifact or {}).get("statistics")
    return Figures(
        variant=variant,
        state=facts.get("state", "done"),
        reason=facts.get("reason", ""),
        answers=len(answers),
        ttft=_median(answer["ttft"] for answer in answers),
        tpot=tpot,
        tokens_per_second=1 / tpot if tpot else None,
        prefill_tokens_per_second=_median(answer["prefill_tokens_per_second"] for answer in answers),
        new_tokens=new,
        accepted_share=accepted / new if accepted else None,
        seconds=sum(answer["seconds"] for answer in answers),
        load_seconds=load.get("seconds"),
        peak_memory=facts.get("peak_memory"),
        disk_bytes=load.get("disk_bytes"),
        weight_bytes=load.get("weight_bytes"),
        bits_per_weight=8 * statistics["bytes_after"] / statistics["weights"]
        if statistics and not load.get("engine")
        else None,
        kernel=load.get("kernel", ""),
        engine=load.get("engine"),
        build_seconds=_build_seconds(load, statistics),
        identical=sum(pair.identical for pair in both) if both else None,
        equal_tokens=_median(pair.equal_tokens for pair in both),
        chrf=mean(pair.chrf for pair in both) if both else None,
        bleu=mean(pair.bleu for pair in both) if both else None,
        stopped=sum(answer["finish_reason"] == "stop" for answer in answers),
        repetition=mean(metrics.repetition(answer["token_ids"]) for answer in answers) if answers else None,
        languages=dict(Counter(metrics.language_of(answer["text"]) for answer in answers)),
        expected=len(checked),
        matching=sum(metrics.matches(*pair) for pair in checked),
        containing=sum(metrics.contains(*pair) for pair in checked),
    )


def _build_seconds(load: dict, statistics: dict | None) -> float | None:
    if engine := load.get("engine"):
        return (engine["saved"] or {}).get("build_seconds")
    return statistics["seconds"] if statistics else None


def _median(values) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
