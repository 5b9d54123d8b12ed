"""A sweep over recipes, and an attribution, as tables and pages."""

from statistics import median
from typing import Any, NamedTuple

from markupsafe import Markup

from itrex_chat.foundation import machine
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.quality.attribution import Attribution, Step
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.report import charts
from itrex_chat.report.charts import Point
from itrex_chat.report.page import rendered
from itrex_chat.report.quality_tables import estimate, more, small
from itrex_chat.settings.variant import titled
from itrex_chat.sweeps.sweeping import Outcome

ALIKE = 1.002  # sizes that differ by less are one: a manifest has a few bytes more than another


class Measured(NamedTuple):
    """What there is of an outcome that was measured."""

    label: str
    bits: int
    total: Corpus
    difference: Estimate | None  # none for the first
    disk_bytes: int
    bits_per_weight: float
    tokens_per_second: float | None  # none where the answer was one token
    prefill_tokens_per_second: float
    peak_memory: int
    algorithm: str
    budget: float  # 0 where there was none
    build_seconds: float | None


def sweep_rows(outcomes: list[Outcome]) -> list[list[str]]:
    """A heading and a row for each recipe that was measured."""
    rows = [
        [
            _("recipe"),
            _("on disk"),
            _("bits per weight"),
            _("KL divergence, mean"),
            _("more than the first"),
            _("same likeliest token"),
            _("perplexity / baseline"),
            _("tokens per second"),
            _("prompt tokens per second"),
            _("peak memory"),
            _("algorithm"),
            _("budget"),
            _("made in"),
        ]
    ]
    for found in measured(outcomes):
        figures = found.total.figures
        rows.append(
            [
                found.label,
                readable(found.disk_bytes),
                f"{found.bits_per_weight:.2f}",
                estimate(figures["kld_mean"], small),
                estimate(found.difference, more) if found.difference else "–",
                estimate(figures["same_top"], lambda v: f"{100 * v:.1f} %"),
                estimate(figures["ppl_ratio"], lambda v: f"{v:.4f}"),
                f"{found.tokens_per_second:.1f}" if found.tokens_per_second else "–",
                f"{found.prefill_tokens_per_second:.0f}",
                readable(found.peak_memory),
                found.algorithm,
                f"{found.budget:g}" if found.budget else "–",
                _made_in(found),
            ]
        )
    return rows


def _made_in(found: Measured) -> str:
    return "–" if found.build_seconds is None else lasting(found.build_seconds)


def measured(outcomes: list[Outcome]) -> list[Measured]:
    return [
        Measured(
            outcome.label,
            outcome.quantization.bits,
            outcome.total,
            outcome.difference,
            outcome.disk_bytes,
            outcome.bits_per_weight,
            outcome.tokens_per_second,
            outcome.prefill_tokens_per_second,
            outcome.peak_memory,
            outcome.quantization.effective_algorithm,
            outcome.quantization.effective_budget,
            outcome.build_seconds,
        )
        for outcome in outcomes
        if outcome.total is not None
        and outcome.disk_bytes is not None
        and outcome.bits_per_weight is not None
        and outcome.prefill_tokens_per_second is not None
        and outcome.peak_memory is not None
    ]


def sweep_verdict(outcomes: list[Outcome]) -> list[str]:
    """What can be told apart: each recipe against the first one, by the interval of their difference."""
    found = measured(outcomes)
    worse, better, alike = ([each.label for each in found[1:] if _sign(each.difference) == sign] for sign in (1, -1, 0))
    lines = []
    if worse:
        lines.append(_("Worse than {first}: {labels}.", first=found[0].label, labels=_(", ").join(worse)))
    if better:
        lines.append(_("Better than {first}: {labels}.", first=found[0].label, labels=_(", ").join(better)))
    if alike:
        lines.append(
            _(
                "Not told apart from {first} by {positions} tokens: {labels}.",
                first=found[0].label,
                positions=found[0].total.positions,
                labels=_(", ").join(alike),
            )
        )
    lines += _best(found)
    if len({outcome.machine for outcome in outcomes if outcome.machine}) > 1:
        told = _(", ").join(f"{outcome.label}: {outcome.machine}" for outcome in outcomes if outcome.machine)
        lines.append(_("Speeds are of several machines and not to be compared: {machines}.", machines=told))
    return lines


def _best(found: list[Measured]) -> list[str]:
    """The best choice for each size, smallest first: those that lose less on average than all that are no larger."""
    front: list[Measured] = []
    for each in sorted(found, key=lambda each: (each.disk_bytes, _mean(each), each.build_seconds or 0)):
        if not front or _mean(each) < _mean(front[-1]):
            if front and each.disk_bytes <= ALIKE * front[-1].disk_bytes:
                front.pop()
            front.append(each)
    if len(found) < 2:
        return []
    choices = [
        _(
            "{label} from {size} on (KL {kld}, made in {time})",
            label=each.label,
            size=readable(each.disk_bytes),
            kld=small(_mean(each)),
            time=_made_in(each),
        )
        for each in front
    ]
    return [_("The best choice for a size on disk, by the means alone: {choices}.", choices=_(", ").join(choices))]


def _mean(found: Measured) -> float:
    return found.total.figures["kld_mean"].value


def sweep_page(model: str, baseline: str, outcomes: list[Outcome], command: str) -> str:
    found = measured(outcomes)
    rows = sweep_rows(outcomes)
    for number, row in enumerate(rows[1:], 1):
        row[0] = f"{number} · {row[0]}"
    title = _("Recipes of {model} against {base}", model=model, base=titled(baseline))
    return rendered(
        "sweeps.html.j2",
        title,
        title,
        machine.description()["cpu"],
        verdict=sweep_verdict(outcomes),
        missing=[f"{o.label}: {o.reason}" for o in outcomes if o.reason],
        command=command,
        parts=[
            {
                "title": _("Quality against size, speed and the time to make it"),
                "rows": rows,
                "charts": _scatters(found),
                "note": _(
                    "Lower is better; numbers are those of the table. All recipes read the same tokens; "
                    "in brackets: 95 % interval."
                ),
            }
        ],
    )


def _scatters(found: list[Measured]) -> list[Markup]:
    """Cost by size, by speed, and by the time to make it."""
    drawn = []
    for title, values, unit in (
        (_("cost by size"), [each.disk_bytes / 1e6 for each in found], _("MB on disk")),
        (_("cost by speed"), [each.tokens_per_second or 0.0 for each in found], _("tokens per second")),
        (_("cost by the time to make it"), [(each.build_seconds or 0.0) / 60 for each in found], _("minutes")),
    ):
        if found and all(values):
            points = [
                Point(each.label, f"int{each.bits}", value, each.total.figures["kld_mean"])
                for each, value in zip(found, values)
            ]
            drawn.append(charts.scatter(title, points, unit, _("mean KL divergence, nats")))
    return drawn


def step_rows(attribution: Attribution) -> list[list[str]]:
    return [
        [_("quantized"), _("KL divergence, mean"), _("added by this step"), _("same likeliest token")],
        *(
            [
                step_title(step),
                estimate(step.kld_mean, small),
                estimate(step.added, more) if step.added else "–",
                estimate(step.same_top, lambda v: f"{100 * v:.1f} %"),
            ]
            for step in attribution.steps
        ),
    ]


def step_title(step: Step) -> str:
    return {
        "blocks": _("weights of the blocks, activations in FP32"),
        "head": _("and the head ({head})", head=step.head),
        "activations": _("and activations ({dtype})", dtype=step.compute_dtype),
        "kv_cache": _("and keys and values ({format})", format=step.cache_format),
    }[step.name]


def layer_rows(attribution: Attribution, count: int | None = None) -> list[list[str]]:
    """The blocks that hurt most first; `count` of them, or all."""
    ordered = sorted(attribution.layers, key=lambda layer: -layer.kld_mean.value)
    whole = sum(layer.kld_mean.value for layer in ordered) or 1
    return [
        [_("block quantized alone"), _("KL divergence, mean"), _("share of the sum")],
        *(
            [str(layer.number), estimate(layer.kld_mean, small), f"{100 * layer.kld_mean.value / whole:.1f} %"]
            for layer in ordered[:count]
        ),
    ]


def attribution_page(model: str, baseline: str, attribution: Attribution, command: str) -> str:
    title = _("Where the loss of {model} comes from", model=model)
    parts: list[dict[str, Any]] = [
        {
            "title": _("Step by step"),
            "rows": step_rows(attribution),
            "charts": [],
            "note": _(
                "Each step quantizes one thing more; {positions} tokens in {passages} passages, kernel {kernel}.",
                positions=attribution.positions,
                passages=attribution.passages,
                kernel=attribution.kernel,
            ),
        }
    ]
    if attribution.layers:
        parts.append(
            {
                "title": _("Layer by layer"),
                "rows": layer_rows(attribution),
                "charts": [
                    charts.columns(
                        _("KL divergence with one block quantized"),
                        [(str(layer.number), layer.kld_mean) for layer in attribution.layers],
                    )
                ],
                "note": _("Only this block's weights are quantized, activations stay in FP32."),
            }
        )
    return rendered(
        "sweeps.html.j2",
        title,
        title,
        machine.description()["cpu"],
        verdict=attribution_verdict(attribution),
        missing=[],
        command=command,
        parts=parts,
    )


def attribution_verdict(attribution: Attribution) -> list[str]:
    """Each step's share of the whole, as far as it can be told."""
    last = attribution.steps[-1].kld_mean.value or 1
    lines = [
        _(
            "Rounding the weights of the blocks costs {kld} nats of {whole}.",
            kld=small(attribution.steps[0].kld_mean.value),
            whole=small(last),
        )
    ]
    for step in attribution.steps:
        if step.added is not None:  # as for all but the first
            lines.append(
                _(
                    "{name}: {change} nats{known}.",
                    name=step_title(step),
                    change=more(step.added.value),
                    known="" if _sign(step.added) else _(", which is within the uncertainty"),
                )
            )
    if attribution.layers:
        worst = max(attribution.layers, key=lambda layer: layer.kld_mean.value)
        typical = median(layer.kld_mean.value for layer in attribution.layers)
        lines.append(
            _(
                "The block that hurts most by itself is {number}: {times:.1f} times the median block. "
                "To leave it alone: --set quantization.keep_layers [{number}]",
                number=worst.number,
                times=worst.kld_mean.value / typical if typical else 1,
            )
        )
    return lines


def _sign(difference: Estimate | None) -> int:
    """1 or -1 where the whole interval is above or below zero, 0 where it cannot be told."""
    if difference is None or difference.low is None or difference.high is None:
        return 0
    return 0 if difference.low <= 0 <= difference.high else 1 if difference.low > 0 else -1
