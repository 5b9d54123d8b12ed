"""The figures of a comparison as rows of text, and as CSV."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from itrex_chat.comparison import AnswerPair, Comparison, Figures, ModelComparison, likeness
from itrex_chat.comparison.figures import AGREEMENT
from itrex_chat.engines import engine_of
from itrex_chat.foundation.harmless import for_spreadsheet
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.answer import Answer
from itrex_chat.quality.passages import ANSWERS
from itrex_chat.quality.record import ModelQuality
from itrex_chat.report.drafting import agreement_cell, drafting_lines
from itrex_chat.settings.variant import titled

DISTURBED = 0.05  # share of the time without a core from which on a report says so
CSV_FIELDS = (
    "model",
    "variant",
    "id",
    "category",
    "question",
    "expected",
    "text",
    "finish_reason",
    "prompt_tokens",
    "new_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "drafter",
    "places",
    "agreed",
    "plain_tpot",
    "batch",
    "ttft",
    "tpot",
    "tokens_per_second",
    "contention",
    "seconds",
    "first_divergent_token",
    "identical",
    "chrf",
    "bleu",
    "repetition",
    "language",
    "matches_expected",
    "contains_expected",
)


def figure_rows(model: ModelComparison) -> list[list[str]]:
    """A heading and a row for each figure: one column for each variant that answered, and ratios to the baseline."""
    shown = [figures for figures in model.figures if figures.answers]
    others = shown[1:]
    base = titled(model.baseline)
    rows = [
        [
            "",
            *(titled(figures.variant) for figures in shown),
            *(f"{titled(figures.variant)} / {base}" for figures in others),
        ]
    ]

    def add(title: str, field: str, show: Callable[[Any], str]) -> None:
        values = [getattr(figures, field) for figures in shown]
        if any(value is not None for value in values):
            ratios = [model.ratio(figures, field) for figures in others]
            rows.append(
                [
                    title,
                    *("–" if value is None else show(value) for value in values),
                    *(f"{ratio:.2f} ×" if ratio is not None else "–" for ratio in ratios),
                ]
            )

    add(_("time to first token (median)"), "ttft", lambda v: f"{v:.3f} s")
    add(_("time per token (median)"), "tpot", lambda v: f"{1000 * v:.1f} ms")
    add(_("tokens per second"), "tokens_per_second", lambda v: f"{v:.1f}")
    add(_("tokens by drafts"), "accepted_share", lambda v: f"{100 * v:.0f} %")
    add(_("prompt tokens per second"), "prefill_tokens_per_second", lambda v: f"{v:.0f}")
    add(_("peak memory"), "peak_memory", readable)
    add(_("of it, weights in the model's own files"), "mapped_bytes", readable)
    add(_("weights read per token"), "weight_bytes", readable)
    add(_("weights read per second"), "read_rate", lambda v: readable(v) + "/s")
    rows += _in_32_bits(shown[0], others)
    add(_("on disk"), "disk_bytes", readable)
    add(_("quantization, once"), "build_seconds", lambda v: f"{v:.1f} s")
    add(_("load time"), "load_seconds", lambda v: f"{v:.1f} s")
    add(_("tokens in all answers"), "new_tokens", str)
    add(_("time for all answers"), "seconds", lambda v: f"{v:.1f} s")
    for title, show in (
        (_("answers identical to {base}", base=base), _identical),
        (_("equal tokens from the start (median)"), _equal),
        (_("chrF to {base} (mean)", base=base), _chrf),
        (_("BLEU to {base} (mean)", base=base), _bleu),
        (_("next tokens that {base} would have chosen", base=base), lambda f: agreement_cell(model, f.variant)),
    ):
        cells = [show(figures) for figures in others]
        if any(cell != "–" for cell in cells):
            rows.append([title, "", *cells, *("" for _other in others)])

    def tell(title: str, show: Callable[[Figures], str]) -> None:
        rows.append([title, *(show(figures) for figures in shown), *("" for _other in others)])

    tell(_("answers that the model ended itself"), lambda f: f"{f.stopped} / {f.answers}")
    tell(
        _("repeated runs of four tokens (mean)"),
        lambda f: "–" if f.repetition is None else f"{100 * f.repetition:.0f} %",
    )
    tell(
        _("languages of the answers"),
        lambda f: ", ".join(f"{name or '?'} {count}" for name, count in sorted(f.languages.items())),
    )
    if any(figures.expected for figures in shown):
        tell(
            _("answers that are / contain what was expected"), lambda f: f"{f.matching} / {f.containing} / {f.expected}"
        )
    return rows


def disturbed(model: ModelComparison) -> list[str]:
    """A sentence for each variant whose speed is not its own, because something else had the cores."""
    return [
        _(
            "{variant}: something else took {share:.0f} % of the cores' time while it answered; its speed here is too low.",
            variant=titled(figures.variant),
            share=100 * figures.contention,
        )
        for figures in model.figures
        if figures.contention is not None and figures.contention > DISTURBED
    ]


def _in_32_bits(base: Figures, others: list[Figures]) -> list[list[str]]:
    """What the baseline would read if its matrices were not kept in 16 bits, and how fast it would be where reading is
    what takes the time; the others beside that."""
    if not base.wide_bytes:
        return []
    wide, absent = base.wide_bytes, ["–" for _other in others]
    ratios = [f"{other.weight_bytes / wide:.2f} ×" if other.weight_bytes else "–" for other in others]
    rows = [[_("{base} in 32 bits would read", base=titled(base.variant)), readable(wide), *absent, *ratios]]
    if base.read_rate:
        speed = base.read_rate / wide
        ratios = [f"{other.tokens_per_second / speed:.2f} ×" if other.tokens_per_second else "–" for other in others]
        rows.append([_("tokens per second that would give, at the same rate"), f"{speed:.1f}", *absent, *ratios])
    return rows


def missing(model: ModelComparison) -> list[str]:
    """A sentence for each variant that did not answer, or not everything."""
    count = len(next(iter(model.pairs.values())))
    lines = []
    for figures in model.figures:
        if figures.answers < count:
            reason = (
                _("The run was interrupted; the same python -m itrex_chat.ask goes on with it.")
                if figures.state in ("waiting", "asking")
                else figures.reason
            )
            lines.append(
                _(
                    "{variant}: {answers} of {count} questions answered. {reason}",
                    answers=figures.answers,
                    variant=titled(figures.variant),
                    count=count,
                    reason=reason,
                ).strip()
            )
    for name, variant in (model.quality.variants if model.quality else {}).items():
        if variant.reason:
            lines.append(_("{variant} was not measured: {reason}", variant=titled(name), reason=variant.reason))
    answered = next(figures.answers for figures in model.figures if figures.variant == model.baseline)
    if model.quality and len(model.quality.answers) < answered and model.quality.baseline == model.baseline:
        lines.append(
            _(
                "Measured on {measured} of {answers} answers; measure again: python -m itrex_chat.measure",
                measured=len(model.quality.answers),
                answers=answered,
            )
        )
    return lines


def remarks(model: ModelComparison) -> list[str]:
    """What another engine's quantization was, what drafts gave and what was answered together, a variant after the other."""
    return [*drafting_lines(model), *_batch_lines(model), *_engine_lines(model)]


def _batch_lines(model: ModelComparison) -> list[str]:
    return [
        _(
            "{variant}: {answers} answers were made together, up to {most} at a time: {tokens} tokens in {seconds:.1f} s, "
            "{rate:.1f} per second. Their times are in no other figure.",
            variant=titled(figures.variant),
            answers=found.answers,
            most=found.most,
            tokens=found.tokens,
            seconds=found.seconds,
            rate=found.tokens / found.seconds if found.seconds else 0.0,
        )
        for figures in model.figures
        if (found := figures.batch)
    ]


def _engine_lines(model: ModelComparison) -> list[str]:
    return [
        f"{titled(figures.variant)}: {line}"
        for figures in model.figures
        if figures.engine
        for line in engine_of(figures.variant).told(figures.engine)
    ]


def absent(comparison: Comparison) -> list[str]:
    """A sentence for each model without any answer."""
    return [
        _("{model}: no answers yet. The run was interrupted, or each variant was skipped or failed.", model=label)
        for label in comparison.absent
    ]


def figures_csv(comparison: Comparison) -> str:
    """One line for each measured figure: its value and the ends of its 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "variant", "baseline", "corpus", "positions", "figure", "value", "low", "high"))
    for model in comparison.models:
        writer.writerows(_measured(model.model, model.quality) if model.quality else ())
        if (found := model.figures[0].drafted) and found.share:
            row = [model.model, found.by, model.baseline, ANSWERS, found.places, AGREEMENT]
            share = found.share
            writer.writerow([for_spreadsheet(cell) for cell in (*row, share.value, share.low, share.high)])
    return out.getvalue()


def _measured(model: str, quality: ModelQuality) -> Iterator[list[object]]:
    """A row for each figure of each variant and corpus."""
    for name, variant in quality.variants.items():
        for corpus in variant.corpora:
            for figure, found in corpus.figures.items():
                row = [model, name, quality.baseline, corpus.name, corpus.positions, figure]
                yield [for_spreadsheet(cell) for cell in (*row, found.value, found.low, found.high)]


def provenance(model: ModelComparison) -> str:
    """Where the weights of the baseline came from."""
    origin = model.origin
    where = origin.get("repository") or origin.get("path") or f"{origin.get('name')} {origin.get('version')}"
    text = _("{base} weights: {stored}, from {where}.", base=titled(model.baseline), stored=model.stored, where=where)
    if storage := model.figures[0].storage:
        text += _(
            " {base} is computed in 32 bits and kept in these 16 ({storage}): the values are the same, and half as much is read.",
            base=titled(model.baseline),
            storage=storage,
        )
    if model.weights_were_quantized:
        text += _(
            " They were quantized before, which makes INT4 look better here than it is against the original model."
        )
    return text


def as_csv(comparison: Comparison) -> str:
    """One line for each answer."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for model in comparison.models:
        written: set[tuple[str, str]] = set()
        for variant, pairs in model.pairs.items():
            for pair in pairs:
                for name, answer in ((model.baseline, pair.baseline), (variant, pair.answer)):
                    if answer is not None and (name, pair.id) not in written:
                        written.add((name, pair.id))
                        writer.writerow(_csv_row(model, name, pair, answer, name == variant and name != model.baseline))
    return out.getvalue()


def _csv_row(
    model: ModelComparison, variant: str, pair: AnswerPair, answer: Answer, compared: bool
) -> dict[str, object]:
    row: dict[str, object] = {
        "model": model.model,
        "variant": variant,
        "id": pair.id,
        "category": pair.category,
        "question": pair.question,
        "expected": pair.expected,
        "first_divergent_token": "",
        "identical": "",
        "chrf": "",
        "bleu": "",
        "repetition": round(likeness.repetition(answer.token_ids), 4),
        "language": likeness.language_of(answer.text),
        "matches_expected": likeness.matches(answer.text, pair.expected) if pair.expected else "",
        "contains_expected": likeness.contains(answer.text, pair.expected) if pair.expected else "",
    }
    row |= {field: value for field, value in vars(answer).items() if field in CSV_FIELDS}
    if answer.drafts:
        row |= {"drafter": answer.drafts.by, "places": answer.drafts.places, "agreed": answer.drafts.agreed}
    row["plain_tpot"] = answer.plain_tpot
    if compared and pair.chrf is not None and pair.bleu is not None:
        row |= {
            "first_divergent_token": "" if pair.identical else pair.equal_tokens,
            "identical": pair.identical,
            "chrf": round(pair.chrf, 2),
            "bleu": round(pair.bleu, 2),
        }
    return {field: for_spreadsheet(value) for field, value in row.items()}


def _identical(figures: Figures) -> str:
    return "–" if figures.identical is None else f"{figures.identical} / {figures.answers}"


def _equal(figures: Figures) -> str:
    return "–" if figures.equal_tokens is None else f"{figures.equal_tokens:.0f}"


def _chrf(figures: Figures) -> str:
    return "–" if figures.chrf is None else f"{figures.chrf:.1f}"


def _bleu(figures: Figures) -> str:
    return "–" if figures.bleu is None else f"{figures.bleu:.1f}"
