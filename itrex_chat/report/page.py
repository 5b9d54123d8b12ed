"""From a comparison to the page."""

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from itrex_chat.comparison import AnswerPair, Comparison, Figures, ModelComparison
from itrex_chat.foundation.harmless import for_html, for_terminal
from itrex_chat.foundation.language import _, spoken_language
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.record import ModelQuality
from itrex_chat.report import charts
from itrex_chat.report.charts import Bar
from itrex_chat.report.drafting import rate
from itrex_chat.report.markdown import chosen_how, likeness
from itrex_chat.report.quality_tables import estimate, judged_lines, quality_tables, rating_rows, small, vote_rows
from itrex_chat.report.sentences import absent, disturbed, missing, provenance, remarks
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.texts import parted
from itrex_chat.report.verdict import level_label, main_corpus, verdicts
from itrex_chat.report.words import words
from itrex_chat.settings.variant import titled

SHADES = (0.02, 0.1, 0.3, 1.0)  # nats from which a token is shaded, and more


def as_html(comparison: Comparison) -> str:
    """One HTML document: no scripts, no requests."""
    title = _("What quantization costs and gives")
    return rendered(
        "page.html.j2",
        " · ".join([title, *(model.model for model in comparison.models)]),
        title,
        str(comparison.machine["cpu"]),
        comparison=comparison,
        overview=[row for model in comparison.models for row in _overview(model)],
        models=[_model(model) for model in comparison.models],
        absent=absent(comparison),
        votes=vote_rows(comparison.votes),
        environment=_environment_rows(comparison),
    )


def rendered(template: str, title: str, heading: str, where: str, **values: object) -> str:
    """A page in the language spoken, with the style inside."""
    return (
        _environment()
        .get_template(template)
        .render(
            w=words(),
            lang={"zh": "zh-CN"}.get(spoken_language(), "en"),
            title=for_terminal(title),
            heading=for_terminal(heading),
            where=for_terminal(where),
            style=resources.files(__package__).joinpath("style.css").read_text("utf-8"),
            **values,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("itrex_chat.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": for_html, "titled": titled}
    return environment


def _overview(model: ModelComparison) -> list[dict[str, Any]]:
    rows = [_overview_row(model, figures) for figures in model.figures if figures.answers]
    return [row | {"model": row["model"] if index == 0 else ""} for index, row in enumerate(rows)]


def _overview_row(model: ModelComparison, figures: Figures) -> dict[str, Any]:
    corpus = main_corpus(model, figures.variant)
    found = corpus.figures if corpus else {}

    def ratio(field: str) -> str:
        value = model.ratio(figures, field)
        return f"{value:.2f} ×" if value else ""

    return {
        "model": model.model,
        "variant": figures.variant,
        "speed": (f"{figures.tokens_per_second:.1f}" if figures.tokens_per_second else "–", ratio("tokens_per_second")),
        "ttft": (_seconds(figures.ttft) if figures.ttft else "–", ratio("ttft")),
        "memory": (readable(figures.peak_memory) if figures.peak_memory else "–", ratio("peak_memory")),
        "disk": (readable(figures.disk_bytes) if figures.disk_bytes else "–", ratio("disk_bytes")),
        "kld": _split(estimate(found["kld_mean"], small)) if found else ("–", ""),
        "top": _split(_same_token(model, figures.variant, found)),
        "ppl": _split(estimate(found["ppl_ratio"], lambda v: f"{v:.3f} ×")) if found else ("–", ""),
        "chrf": (f"{figures.chrf:.1f}" if figures.chrf is not None else "–", ""),
        "identical": (f"{figures.identical} / {figures.answers}" if figures.identical is not None else "–", ""),
    }


def _same_token(model: ModelComparison, variant: str, found: dict[str, Estimate]) -> str:
    """How often the baseline's next token is the variant's: as measured, or as its drafts tell."""
    drafts = model.agreement(variant)
    share = found.get("same_top") or (drafts.share if drafts else None)
    return estimate(share, lambda v: f"{100 * v:.1f} %") if share else "–"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def _split(text: str) -> tuple[str, str]:
    """A figure and its interval, to stand below each other."""
    figure, _bracket, interval = text.partition(" [")
    return figure, f"[{interval}" if interval else ""


def _model(model: ModelComparison) -> dict[str, Any]:
    return {
        "name": model.model,
        "baseline": model.baseline,
        "provenance": provenance(model),
        "disturbed": disturbed(model),
        "missing": missing(model),
        "remarks": remarks(model),
        "verdicts": [
            {
                "variant": verdict.variant,
                "level": verdict.level,
                "word": level_label(verdict.level),
                "sentences": verdict.sentences,
            }
            for verdict in reversed(verdicts(model))
        ],
        "bars": _bars(model),
        "figures": figure_rows(model),
        "quality": [
            {"name": name, "rows": rows, "chart": _quantiles(quality, name)}
            for quality in [model.quality]
            if quality
            for name, rows in quality_tables(quality).items()
        ],
        "ratings": [rating_rows(model.baseline, variant, rated) for variant, rated in model.ratings.items()],
        "judged": judged_lines(model.baseline, model.judged),
        "questions": [_question(model, id) for id in _worst_first(model)],
    }


def _worst_first(model: ModelComparison) -> list[str]:
    """The questions by the likeness of the variant that differs most."""
    likenesses: dict[str, list[float]] = {}
    for pairs in model.pairs.values():
        for pair in pairs:
            likenesses.setdefault(pair.id, []).append(101 if pair.chrf is None else pair.chrf)
    return sorted(likenesses, key=lambda id: min(likenesses[id]))


def _bars(model: ModelComparison) -> list[dict[str, Any]]:
    drawn = []
    for title, field, show in (
        (_("tokens per second"), "tokens_per_second", lambda v: f"{v:.1f}"),
        (_("time to first token (median)"), "ttft", _seconds),
        (_("peak memory"), "peak_memory", readable),
        (_("on disk"), "disk_bytes", readable),
    ):
        rows = [
            Bar(figures.variant, value, show(value))
            for figures in model.figures
            if figures.answers and (value := getattr(figures, field))
        ]
        if rows:
            drawn.append({"title": title, "chart": charts.bars(title, rows)})
    return drawn


def _quantiles(quality: ModelQuality, corpus: str) -> Markup:
    names = {"kld_median": "50 %", "kld_90": "90 %", "kld_99": "99 %", "kld_999": "99.9 %", "kld_max": _("largest")}
    lines = {
        name: [found.figures[figure] for figure in names]
        for name, variant in quality.variants.items()
        for found in variant.corpora
        if found.name == corpus
    }
    return charts.quantiles(_("KL divergence by share of places"), list(names.values()), lines, _("nats"))


def _question(model: ModelComparison, id: str) -> dict[str, Any]:
    """One question with the baseline's answer and all others beside it."""
    pairs = {variant: pair for variant, pairs in model.pairs.items() for pair in pairs if pair.id == id}
    first = next(iter(pairs.values()))
    others = {variant: pair for variant, pair in pairs.items() if variant != model.baseline}
    return {
        "id": id,
        "category": first.category,
        "question": first.question,
        "expected": first.expected,
        "sides": [
            _side(model.baseline, first.baseline, first.answer if len(others) == 1 else None, ""),
            *(_side(variant, pair.answer, pair.baseline, likeness(pair)) for variant, pair in others.items()),
        ],
        "tokens": [found for variant, pair in others.items() if (found := _tokens(model, variant, pair))],
    }


def _side(variant: str, answer: Answer | None, other: Answer | None, likeness: str) -> dict[str, Any]:
    """An answer, marked where it leaves the `other` one."""
    if answer is None:
        return {"variant": variant, "text": None, "facts": "", "likeness": ""}
    return {
        "variant": variant,
        "facts": _facts(answer),
        "likeness": likeness,
        "text": for_html(answer.text)
        if other is None or other.token_ids == answer.token_ids
        else parted(answer.text, other.text),
    }


def _facts(answer: Answer) -> str:
    speed = f" · {rate(answer)} " + _("tokens/s") if answer.tpot and not answer.batch else ""
    ended = _("ended itself") if answer.finish_reason == "stop" else _("cut off")
    return _("{count} tokens", count=answer.new_tokens) + f" · {ended}{speed}"


def _tokens(model: ModelComparison, variant: str, pair: AnswerPair) -> dict[str, Any] | None:
    """The baseline's answer token by token, where it was measured."""
    quality = model.quality
    if quality is None or quality.baseline != model.baseline or variant not in quality.variants:
        return None
    tokens, scores = quality.answers.get(pair.id), quality.variants[variant].answers.get(pair.id)
    if not tokens or not scores or not pair.baseline or len(tokens.pieces) != len(pair.baseline.token_ids):
        return None
    pieces = [
        {
            "text": for_html(piece),
            "shade": sum(kl >= limit for limit in SHADES),
            "title": f"{titled(model.baseline)} {100 * p:.1f} % · {titled(variant)} {100 * q:.1f} % · KL {small(kl)}",
        }
        for piece, p, q, kl in zip(tokens.pieces, tokens.p, scores.p, scores.kl)
    ]
    chart = charts.probabilities(
        _("probability of each token of the answer"), model.baseline, variant, tokens.p, scores.p
    )
    return {"variant": variant, "pieces": pieces, "chart": chart}


def _environment_rows(comparison: Comparison) -> list[tuple[str, str]]:
    machine = comparison.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        (_("processor"), f"{machine['cpu']}, " + _("{cores} cores", cores=machine["cores"])),
        (_("instructions"), ", ".join(machine.get("instructions", ())) or "–"),
        (_("memory"), readable(machine["memory"])),
        (_("system"), f"{machine.get('system', '?')}, Python {machine.get('python', '?')}"),
        ("itrex_chat", str(machine["itrex_chat"])),
        (_("packages"), packages),
        (
            _("answers"),
            _(
                "At most {tokens} tokens an answer, {choice}.",
                tokens=comparison.generation["max_new_tokens"],
                choice=chosen_how(comparison.generation),
            ),
        ),
    ]
