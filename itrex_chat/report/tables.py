"""The figures of a comparison as rows of text."""

from collections.abc import Callable
from typing import Any

from itrex_chat.comparison import Figures, ModelComparison
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.report.drafting import agreement_cell
from itrex_chat.settings.variant import titled


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
    formats = [figures.cache_format for figures in shown]
    if {*formats} - {None, "fp32"}:
        rows.append([_("keys and values in"), *((name or "–").upper() for name in formats), *("" for _other in others)])
    add(_("keys and values, each 1,000 tokens"), "cache_bytes", lambda v: readable(1000 * v))
    rows += _in_32_bits(shown[0], others)
    add(_("on disk"), "disk_bytes", readable)
    if any(figures.algorithm for figures in shown):
        rows.append([_("integers found by"), *(_found_by(figures) for figures in shown), *("" for _other in others)])
    if any(figures.matrices for figures in shown):
        rows.append([_("matrices"), *(_matrices(figures) for figures in shown), *("" for _other in others)])
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
        ratios = [
            f"{other.tokens_per_second / speed:.2f} ×"
            if other.tokens_per_second and other.machine == base.machine
            else "–"
            for other in others
        ]
        rows.append([_("tokens per second that would give, at the same rate"), f"{speed:.1f}", *absent, *ratios])
    return rows


def _found_by(figures: Figures) -> str:
    """The algorithm, and the budget that it had."""
    if not figures.algorithm:
        return "–"
    if not figures.budget:
        return figures.algorithm
    return _("{algorithm}, budget of {budget:g} bits", algorithm=figures.algorithm, budget=figures.budget)


def _matrices(figures: Figures) -> str:
    """How many matrices a budget made what of."""
    return ", ".join(f"{count} × {kind}" for kind, count in sorted((figures.matrices or {}).items())) or "–"


def _identical(figures: Figures) -> str:
    return "–" if figures.identical is None else f"{figures.identical} / {figures.answers}"


def _equal(figures: Figures) -> str:
    return "–" if figures.equal_tokens is None else f"{figures.equal_tokens:.0f}"


def _chrf(figures: Figures) -> str:
    return "–" if figures.chrf is None else f"{figures.chrf:.1f}"


def _bleu(figures: Figures) -> str:
    return "–" if figures.bleu is None else f"{figures.bleu:.1f}"
