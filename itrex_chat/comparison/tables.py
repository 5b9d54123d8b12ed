"""The figures of a comparison as rows of text, and as CSV."""
import csv
import io

from itrex_chat.comparison import Comparison, Figures, ModelComparison
from itrex_chat.language import _
from itrex_chat.units import readable

CSV_FIELDS = ("model", "variant", "id", "category", "question", "expected", "text", "finish_reason", "prompt_tokens",
              "new_tokens", "drafted_tokens", "accepted_tokens", "ttft", "tpot", "tokens_per_second", "seconds", "first_divergent_token", "identical", "chrf")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def figure_rows(model: ModelComparison) -> list[list[str]]:
    """A heading and a row for each figure: one column for each variant that answered, and ratios to the baseline."""
    shown = [figures for figures in model.figures if figures.answers]
    others = shown[1:]
    base = model.baseline.upper()
    rows = [["", *(figures.variant.upper() for figures in shown),
             *(f"{figures.variant.upper()} / {base}" for figures in others)]]

    def add(title: str, field: str, show) -> None:
        values = [getattr(figures, field) for figures in shown]
        if any(value is not None for value in values):
            ratios = [model.ratio(figures, field) for figures in others]
            rows.append([title, *("–" if value is None else show(value) for value in values),
                         *(f"{ratio:.2f} ×" if ratio is not None else "–" for ratio in ratios)])

    add(_("time to first token (median)"), "ttft", lambda v: f"{v:.3f} s")
    add(_("time per token (median)"), "tpot", lambda v: f"{1000 * v:.1f} ms")
    add(_("tokens per second"), "tokens_per_second", lambda v: f"{v:.1f}")
    add(_("tokens by prompt lookup"), "accepted_share", lambda v: f"{100 * v:.0f} %")
    add(_("prompt tokens per second"), "prefill_tokens_per_second", lambda v: f"{v:.0f}")
    add(_("peak memory"), "peak_memory", readable)
    add(_("weights read per token"), "weight_bytes", readable)
    add(_("on disk"), "disk_bytes", readable)
    add(_("load time"), "load_seconds", lambda v: f"{v:.1f} s")
    add(_("tokens in all answers"), "new_tokens", str)
    add(_("time for all answers"), "seconds", lambda v: f"{v:.1f} s")
    for title, show in ((_("answers identical to {base}", base=base), _identical), (_("equal tokens from the start "
                        "(median)"), _equal), (_("chrF to {base} (mean)", base=base), _chrf)):
        if others:
            rows.append([title, "", *(show(figures) for figures in others), *("" for _other in others)])
    return rows


def missing(model: ModelComparison) -> list[str]:
    """A sentence for each variant that did not answer, or not everything."""
    count = len(next(iter(model.pairs.values())))
    lines = []
    for figures in model.figures:
        if figures.answers < count:
            lines.append(_("{variant}: {answers} of {count} questions answered. {reason}", answers=figures.answers,
                           variant=figures.variant.upper(), count=count, reason=figures.reason).strip())
    return lines


def provenance(model: ModelComparison) -> str:
    """Where the weights of the baseline came from."""
    origin = model.origin
    where = origin.get("repository") or origin.get("path") or f"{origin.get('name')} {origin.get('version')}"
    text = _("{base} weights: {stored}, from {where}.", base=model.baseline.upper(), stored=model.stored, where=where)
    if model.weights_were_quantized:
        text += _(" They were quantized before, which makes INT4 look better here than it is against the original model.")
    return text


def as_csv(comparison: Comparison) -> str:
    """One line for each answer."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for model in comparison.models:
        written = set()
        for variant, pairs in model.pairs.items():
            for pair in pairs:
                for name, answer in ((model.baseline, pair.baseline), (variant, pair.answer)):
                    if answer is not None and (name, pair.id) not in written:
                        written.add((name, pair.id))
                        writer.writerow(_csv_row(model, name, pair, answer, name == variant and name != model.baseline))
    return out.getvalue()


def _csv_row(model: ModelComparison, variant: str, pair, answer: dict, compared: bool) -> dict:
    row = {"model": model.model, "variant": variant, "id": pair.id, "category": pair.category,
           "question": pair.question, "expected": pair.expected, "first_divergent_token": "", "identical": "",
           "chrf": ""} | {field: answer[field] for field in CSV_FIELDS if field in answer and field != "id"}
    row["model"] = model.model
    if compared and pair.chrf is not None:
        row |= {"first_divergent_token": "" if pair.identical else pair.equal_tokens, "identical": pair.identical,
                "chrf": round(pair.chrf, 2)}
    return {field: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
            for field, value in row.items()}


def _identical(figures: Figures) -> str:
    return "–" if figures.identical is None else f"{figures.identical} / {figures.answers}"


def _equal(figures: Figures) -> str:
    return "–" if figures.equal_tokens is None else f"{figures.equal_tokens:.0f}"


def _chrf(figures: Figures) -> str:
    return "–" if figures.chrf is None else f"{figures.chrf:.1f}"
