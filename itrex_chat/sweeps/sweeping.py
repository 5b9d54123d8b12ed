"""Several recipes of one model on the same passages: what each costs, takes and gives."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.event import Answered, Done, Loaded
from itrex_chat.jobs.executor import Executor, LocalExecutor
from itrex_chat.jobs.job import Ask
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import measuring, metrics
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.quality.metrics import Positions
from itrex_chat.settings import questions as question_sets
from itrex_chat.settings.generation import NO_DRAFTS
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.questions import Question
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant, titled
from itrex_chat.sweeps.grid import label

SPEED_TOKENS = 64  # decoded to tell a recipe's speed


@dataclass(frozen=True)
class Outcome:
    """One recipe. `difference` is its mean KL divergence less the first recipe's, on the same positions."""

    label: str
    quantization: Quantization
    reason: str = ""  # why it could not be measured
    corpora: tuple[Corpus, ...] = ()
    total: Corpus | None = None  # all passages together
    difference: Estimate | None = None
    disk_bytes: int | None = None
    bits_per_weight: float | None = None
    weight_bytes: int | None = None
    peak_memory: int | None = None
    tokens_per_second: float | None = None
    prefill_tokens_per_second: float | None = None
    cache_format: str = "fp32"  # of keys and values
    build_seconds: float | None = None  # that making the artifact took, when that was
    machine: str = ""  # that its speeds were measured on


def sweep(
    recipe: Recipe,
    baseline: str,
    grid: list[Quantization],
    answers: list[Passage],
    texts: list[Path],
    limit: int | None = None,
    keep: bool = False,
    executor: Executor | None = None,
    formats: Sequence[str] = (),
) -> Iterator[Outcome]:
    """The outcome of each quantization in turn, and of each with keys and values in each of the `formats`. The baseline is
    computed once; artifacts that were not in the cache before are removed again unless `keep`. Raises RunError where the
    baseline cannot be had."""
    executor, first = executor or LocalExecutor(), None
    own = recipe.kv_cache.format
    for quantization in grid:
        before = set(ArtifactStore().folders())
        for cache_format in dict.fromkeys((own, *formats)):
            kept = dataclasses.replace(recipe.kv_cache, format=cache_format)
            chosen = dataclasses.replace(recipe, quantization=quantization, kv_cache=kept)
            outcome, total = _outcome(chosen, baseline, first, answers, texts, limit, executor)
            first = first or total
            yield outcome
        if not keep:
            for folder in set(ArtifactStore().folders()) - before:
                ArtifactStore().remove(folder)


def _outcome(
    chosen: Recipe,
    baseline: str,
    first: Positions | None,
    answers: list[Passage],
    texts: list[Path],
    limit: int | None,
    executor: Executor,
) -> tuple[Outcome, Positions | None]:
    """What one recipe gave, beside the `first`, and its positions if it could be measured."""
    quantization, kept = chosen.quantization, chosen.kv_cache.format
    name = label(quantization) + ("" if kept == "fp32" else f" kv {kept}")
    variant = str(Variant.of(quantization))
    measured = measuring.measure(chosen, baseline, [variant], answers, texts, limit, executor)
    [found] = measured.variants
    if found.reason:
        return Outcome(name, quantization, found.reason, cache_format=kept), None
    total = metrics.together(list(found.found.values()))
    artifact = measured.plan.artifacts[variant]
    return Outcome(
        name,
        quantization,
        corpora=tuple(found.corpora),
        total=Corpus(
            "all",
            sum(corpus.passages for corpus in found.corpora),
            len(total.kl),
            metrics.estimates(total),
            metrics.compaction_error(total),
        ),
        difference=metrics.difference(first, total) if first else None,
        disk_bytes=artifact.bytes,
        bits_per_weight=8 * artifact.statistics["bytes_after"] / artifact.statistics["weights"],
        cache_format=kept,
        build_seconds=artifact.statistics["seconds"],
        **_speed(chosen, variant, executor),
    ), total


def _speed(recipe: Recipe, variant: str, executor: Executor) -> dict[str, Any]:
    """Decode and prefill rates on one question, the better of two answers, and what memory that takes."""
    text = question_sets.load("english-5").questions[-1].text
    job = Ask(
        recipe=recipe,
        label=recipe.name,
        variant=variant,
        questions=(Question("first", text), Question("second", text)),
        generation=dataclasses.replace(
            recipe.generation, max_new_tokens=SPEED_TOKENS, do_sample=False, prompt_lookup=False, draft=NO_DRAFTS
        ),
    )
    events = list(executor.run(job))
    answers = [event.answer for event in events if isinstance(event, Answered)]
    facts, described = next((event.facts, event.machine) for event in events if isinstance(event, Loaded))
    if not answers:
        raise RunError(_("{variant} gave no answer.", variant=titled(variant)))
    return {
        "tokens_per_second": max(answer.tokens_per_second or 0 for answer in answers) or None,
        "prefill_tokens_per_second": max(answer.prefill_tokens_per_second or 0 for answer in answers),
        "weight_bytes": facts.weight_bytes,
        "machine": machine.called(described) if described else "",
        "peak_memory": next(event.peak_memory for event in events if isinstance(event, Done)),
    }
