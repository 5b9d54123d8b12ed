"""Where the loss comes from: step by step from rounded weights to the whole recipe, and layer by layer."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation.errors import RunError
from itrex_chat.jobs.event import Loaded
from itrex_chat.jobs.executor import Executor
from itrex_chat.jobs.job import ScoreLayers
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import measuring, metrics
from itrex_chat.quality.intervals import Estimate, Sample, positive_mean
from itrex_chat.quality.measuring import Measurement
from itrex_chat.quality.store import Parts, digest
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


@dataclass(frozen=True)
class Step:
    """Part of a recipe. `added` is the mean divergence that it has more than the step before."""

    name: str  # "blocks", "head", "activations", "kv_cache"
    head: str
    compute_dtype: str
    kld_mean: Estimate
    same_top: Estimate
    added: Estimate | None
    cache_format: str = "fp32"


@dataclass(frozen=True)
class Layer:
    """The mean divergence with only this block quantized (the head's `number` is the count of blocks)."""

    number: int
    kld_mean: Estimate


@dataclass(frozen=True)
class Attribution:
    positions: int
    passages: int
    kernel: str  # that multiplied, and rounded activations in its way
    steps: list[Step]
    layers: list[Layer]


def steps(
    recipe: Recipe, baseline: str, answers: list[Passage], texts: list[Path], limit: int | None, executor: Executor
) -> tuple[list[Step], Measurement]:
    """Quantize the blocks alone, then the head as well, then the activations and the keys and values as the recipe says.
    The measurement is that of the recipe's weights and activations."""
    wanted, kept = recipe.quantization, recipe.kv_cache
    whole = dataclasses.replace(recipe, kv_cache=dataclasses.replace(kept, format=kept.dense))
    chosen = [("blocks", dataclasses.replace(wanted, head="none", compute_dtype="fp32"))]
    if wanted.head != "none":
        chosen.append(("head", dataclasses.replace(wanted, compute_dtype="fp32")))
    if wanted.compute_dtype != "fp32":
        chosen.append(("activations", wanted))
    parts = [(name, dataclasses.replace(whole, quantization=quantization)) for name, quantization in chosen]
    if kept.format != kept.dense:
        parts.append(("kv_cache", recipe))
    found, measured = list[Step](), list[Measurement]()
    before, variant = None, str(Variant.of(wanted))
    for name, part in parts:
        quantization = part.quantization
        measured.append(measuring.measure(part, baseline, [variant], answers, texts, limit, executor))
        [result] = measured[-1].variants
        if result.reason:
            raise RunError(result.reason)
        positions = metrics.together(list(result.found.values()))
        figures = metrics.estimates(positions)
        found.append(
            Step(
                name,
                quantization.head,
                quantization.compute_dtype,
                figures["kld_mean"],
                figures["same_top"],
                metrics.difference(before, positions) if before else None,
                part.kv_cache.format,
            )
        )
        before = positions
    return found, measured[len(chosen) - 1]


def layers(recipe: Recipe, baseline: str, measured: Measurement, executor: Executor) -> list[Layer]:
    """The divergence with one block at a time quantized, on the passages of a measurement with that recipe."""
    variant, plan, passages = str(Variant.of(recipe.quantization)), measured.plan, measured.passages
    keys = {number: digest({"scores": plan.variants[variant], "layer": number}) for number in range(plan.layers)}
    missing = {number: Parts("scores", key).missing(passages) for number, key in keys.items()}
    open_keys = {number: keys[number] for number, some in missing.items() if some}
    if open_keys:
        job = ScoreLayers(
            recipe=recipe,
            baseline=baseline,
            variant=variant,
            passages=tuple(passages),
            reference=measured.reference.key,
            scores=open_keys,
            needed=plan.needs[baseline],
        )
        for event in executor.run(job):
            if isinstance(event, Loaded) and event.pace:
                measuring.tell_time([passage for some in missing.values() for passage in some], event.facts, event.pace)
    return [Layer(number, _mean(measured, Parts("scores", key))) for number, key in keys.items()]


def _mean(measured: Measurement, parts: Parts) -> Estimate:
    found = metrics.positions(measured.reference.all(measured.passages), parts.all(measured.passages))
    return positive_mean(Sample(found.kl, found.passages))
